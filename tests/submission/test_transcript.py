from toprung.submission.jobs import Transcript


def test_a_log_that_comes_again_from_its_beginning_is_written_once():
    written = []
    transcript = Transcript(written.append)
    transcript.begin()
    transcript.take("one\ntwo\n")
    transcript.begin()  # the connection broke
    transcript.take("one\n")
    transcript.take("two\nthr")
    transcript.begin()
    transcript.take("one\ntwo\nthree\n")
    transcript.take("four\n")
    assert "".join(written) == "one\ntwo\nthree\nfour\n"
