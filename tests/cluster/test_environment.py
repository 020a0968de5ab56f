"""Which variables of the user's shell stay, and which are replaced; a Ray that cannot be imported."""

import os
import sys
from types import ModuleType

import pytest

from toprung.cluster import LocalCluster, Node, import_ray, prepare_environment
from toprung.errors import UserError


@pytest.fixture
def shell(monkeypatch):
    """An environment of its own."""
    variables = {"HOME": "/nonexistent"}
    monkeypatch.setattr(os, "environ", variables)
    return variables


def test_what_a_sweep_needs_replaces_what_the_shell_has(shell):
    shell |= {"RAY_TRAIN_V2_ENABLED": "0", "TUNE_DISABLE_SIGINT_HANDLER": "no", "TUNE_RESULT_BUFFER_LENGTH": "100"}
    prepare_environment("auto")
    needed = [shell["RAY_TRAIN_V2_ENABLED"], shell["TUNE_DISABLE_SIGINT_HANDLER"], shell["TUNE_RESULT_BUFFER_LENGTH"]]
    assert needed == ["1", "1", "1"]


def test_a_private_ray_asks_for_a_token_and_listens_on_loopback_whatever_the_shell_has(shell):
    shell |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    prepare_environment()
    assert (shell["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"], shell["RAY_AUTH_MODE"]) == ("0", "token")
    assert shell["RAY_AUTH_TOKEN"]


def test_what_is_only_a_default_stays_as_the_shell_has_it(shell):
    shell |= {"RAY_USAGE_STATS_ENABLED": "1", "RAY_worker_niceness": "15"}
    prepare_environment()
    assert (shell["RAY_USAGE_STATS_ENABLED"], shell["RAY_worker_niceness"]) == ("1", "15")


def test_a_cluster_keeps_its_own_way_to_listen_and_to_authenticate(shell):
    shell |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_MODE": "disabled"}
    prepare_environment("auto")
    assert (shell["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"], shell["RAY_AUTH_MODE"]) == ("1", "disabled")


@pytest.fixture
def broken_ray(tmp_path, monkeypatch):
    """A file of the user's that has Ray's name."""
    (tmp_path / "ray.py").write_text("import a_module_that_does_not_exist\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "ray.py"


def test_a_ray_that_cannot_be_imported_is_named_with_its_file(broken_ray):
    with pytest.raises(UserError, match=f"from {broken_ray}: No module named 'a_module_that_does_not_exist'. Rename"):
        import_ray()


def test_a_module_that_is_not_ray_is_not_taken_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(UserError, match="has no attribute 'init'"):
        import_ray()


def test_a_ray_that_cannot_be_imported_is_stopped_like_any_other(broken_ray, tmp_path):
    resources = {"CPU": 1.0, "GPU": 0.0, "object_store_memory": 1e8}
    ray = LocalCluster(code=tmp_path, node=Node("", "this machine", resources, {}))
    with pytest.raises(UserError, match="Ray cannot be imported"):
        ray.wait()
    ray.stop()
    assert not ray._thread.is_alive()


def test_a_shutdown_that_fails_keeps_nobody_waiting(monkeypatch, tmp_path):
    def shutdown():
        raise RuntimeError("Ray is gone")

    fake = ModuleType("ray")
    fake.init, fake.shutdown = (lambda **_: None), shutdown
    monkeypatch.setitem(sys.modules, "ray", fake)
    resources = {"CPU": 1.0, "GPU": 0.0, "object_store_memory": 1e8}
    ray = LocalCluster(code=tmp_path, node=Node("", "this machine", resources, {}))
    ray.wait()
    with pytest.raises(RuntimeError, match="Ray is gone"):
        ray.stop()
    assert not ray._thread.is_alive()
