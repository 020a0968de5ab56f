"""Submitting a job: what Ray's dashboard answers, without a cluster."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from toprung.cluster.jobs import client
from toprung.cluster.jobs.client import NO_AGENT, Jobs
from toprung.errors import UserError


class Dashboard:
    """Answers each submission with the next of some errors, then accepts it."""

    def __init__(self, *errors):
        self.errors, self.submitted = list(errors), []

    def submit_job(self, *, submission_id, **settings):
        if self.errors:
            raise RuntimeError(self.errors.pop(0))
        self.submitted.append(submission_id)
        return submission_id


@pytest.fixture
def submit(monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)

    def submit(dashboard):
        jobs = Jobs.__new__(Jobs)
        jobs.address, jobs._client = "http://head:8265", dashboard
        return jobs.submit(["toprung", "sweep"], label="mine", runtime_env={})

    return submit


def test_a_head_whose_agent_still_starts_is_asked_again(submit):
    error = f"Request failed with status code 500: {NO_AGENT} to submit job, please try again later."
    dashboard = Dashboard(error, error)
    assert [submit(dashboard)] == dashboard.submitted


def test_an_agent_that_never_starts_is_an_error(submit, monkeypatch):
    monkeypatch.setattr(client, "AGENT_TIMEOUT_SECONDS", -1)
    with pytest.raises(UserError, match=r"rejects the job: .*No available agent"):
        submit(Dashboard(f"Request failed with status code 500: {NO_AGENT} to submit job"))


def test_another_error_is_not_tried_again(submit):
    dashboard = Dashboard("Request failed with status code 400: no such working_dir")
    with pytest.raises(UserError, match=r"rejects the job: .*no such working_dir"):
        submit(dashboard)
    assert dashboard.errors == []


class LostConnections:
    """A job whose log is cut off after each of some durations, in seconds, until it ends."""

    def __init__(self, monkeypatch, durations):
        self.durations, self.now = list(durations), 0.0
        monkeypatch.setattr(client.time, "monotonic", lambda: self.now)

    async def tail_job_logs(self, job):
        yield "epoch\n"
        if self.durations:
            self.now += self.durations.pop(0)
            raise RuntimeError("connection reset")

    def get_job_status(self, job):
        return JobStatus.SUCCEEDED

    def get_job_info(self, job):
        return SimpleNamespace(status="SUCCEEDED")


def _follow(monkeypatch, durations):
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    jobs = Jobs.__new__(Jobs)
    jobs.address, jobs._client = "http://head:8265", LostConnections(monkeypatch, durations)
    return jobs.follow("job", write=lambda text: None)


def test_a_long_job_is_followed_through_any_number_of_lost_connections(monkeypatch):
    assert _follow(monkeypatch, [3600.0] * 100) == 0


def test_a_cluster_that_never_answers_again_is_given_up(monkeypatch):
    with pytest.raises(UserError, match=r"can no longer be reached \(connection reset\)"):
        _follow(monkeypatch, [0.0] * 100)


def test_ray_still_answers_with_these_words():
    spec = importlib.util.find_spec("ray.dashboard.modules.job.job_head")
    assert NO_AGENT in Path(spec.origin).read_text(encoding="utf-8")
