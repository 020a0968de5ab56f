"""A container's CPU quota is tested in tests/cluster/test_detection.py."""

import os

import pytest

from toprung.machine import num_cpus


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cpus")
def test_cpus_are_limited_by_the_affinity_of_the_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert num_cpus() == 1


@pytest.mark.usefixtures("eight_cpus")
def test_cpus_are_limited_by_the_variable_of_joblib(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert num_cpus() == 1
