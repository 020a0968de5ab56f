from toprung.cluster.jobs.client import ResumableLog


def test_a_log_that_restarts_from_its_beginning_is_written_once():
    written = []
    log = ResumableLog(written.append)
    log.restart()
    log.write("one\ntwo\n")
    log.restart()  # the connection broke
    log.write("one\n")
    log.write("two\nthr")
    log.restart()
    log.write("one\ntwo\nthree\n")
    log.write("four\n")
    assert "".join(written) == "one\ntwo\nthree\nfour\n"
