"""Which variables of the user's shell are kept and which are replaced; a Ray that cannot be imported."""

import os
import sys
from types import ModuleType

import pytest

from toprung.cluster import LocalCluster, Node, import_ray, prepare_environment
from toprung.errors import UserError


@pytest.fixture
def shell(monkeypatch):
    """A separate environment."""
    variables = {"HOME": "/nonexistent"}
    monkeypatch.setattr(os, "environ", variables)
    return variables


def test_required_variables_override_the_shell(shell):
    shell |= {"RAY_TRAIN_V2_ENABLED": "0", "TUNE_DISABLE_SIGINT_HANDLER": "no", "TUNE_RESULT_BUFFER_LENGTH": "100"}
    prepare_environment("auto")
    values = [shell["RAY_TRAIN_V2_ENABLED"], shell["TUNE_DISABLE_SIGINT_HANDLER"], shell["TUNE_RESULT_BUFFER_LENGTH"]]
    assert values == ["1", "1", "1"]


def test_a_private_ray_requires_a_token_and_listens_on_loopback_even_if_the_shell_says_otherwise(shell):
    shell |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    prepare_environment()
    assert (shell["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"], shell["RAY_AUTH_MODE"]) == ("0", "token")
    assert shell["RAY_AUTH_TOKEN"]


def test_defaults_do_not_override_the_shell(shell):
    shell |= {"RAY_USAGE_STATS_ENABLED": "1", "RAY_worker_niceness": "15"}
    prepare_environment()
    assert (shell["RAY_USAGE_STATS_ENABLED"], shell["RAY_worker_niceness"]) == ("1", "15")


def test_for_a_cluster_the_variables_for_listening_and_authentication_are_kept(shell):
    shell |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_MODE": "disabled"}
    prepare_environment("auto")
    assert (shell["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"], shell["RAY_AUTH_MODE"]) == ("1", "disabled")


@pytest.fixture
def broken_ray(tmp_path, monkeypatch):
    """A user's file with the same name as Ray."""
    (tmp_path / "ray.py").write_text("import a_module_that_does_not_exist\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "ray.py"


def test_a_ray_that_cannot_be_imported_is_reported_with_its_file(broken_ray):
    with pytest.raises(UserError, match=f"from {broken_ray}: No module named 'a_module_that_does_not_exist'. Rename"):
        import_ray()


def test_another_module_named_ray_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(UserError, match="has no attribute 'init'"):
        import_ray()


def test_a_cluster_whose_ray_cannot_be_imported_can_be_stopped(broken_ray, tmp_path):
    resources = {"CPU": 1.0, "GPU": 0.0, "object_store_memory": 1e8}
    ray = LocalCluster(code=tmp_path, node=Node("", "this machine", resources, {}))
    with pytest.raises(UserError, match="Ray cannot be imported"):
        ray.wait()
    ray.stop()
    assert not ray._thread.is_alive()


def test_a_failed_shutdown_does_not_block(monkeypatch, tmp_path):
    def shutdown():
        raise RuntimeError("Ray has ended")

    fake = ModuleType("ray")
    fake.init, fake.shutdown = (lambda **_: None), shutdown
    monkeypatch.setitem(sys.modules, "ray", fake)
    resources = {"CPU": 1.0, "GPU": 0.0, "object_store_memory": 1e8}
    ray = LocalCluster(code=tmp_path, node=Node("", "this machine", resources, {}))
    ray.wait()
    with pytest.raises(RuntimeError, match="Ray has ended"):
        ray.stop()
    assert not ray._thread.is_alive()
