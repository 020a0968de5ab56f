from toprung.cluster.jobs.client import ResumableLog


def test_a_log_that_comes_again_from_its_beginning_is_written_once():
    written = []
    transcript = ResumableLog(written.append)
    transcript.restart()
    transcript.write("one\ntwo\n")
    transcript.restart()  # the connection broke
    transcript.write("one\n")
    transcript.write("two\nthr")
    transcript.restart()
    transcript.write("one\ntwo\nthree\n")
    transcript.write("four\n")
    assert "".join(written) == "one\ntwo\nthree\nfour\n"
