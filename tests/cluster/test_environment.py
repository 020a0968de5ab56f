"""A Ray that cannot be imported."""

import sys
from types import ModuleType

import pytest

from toprung.cluster import LocalRay, Node, import_ray
from toprung.errors import UserError


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
    ray = LocalRay(code=tmp_path, node=Node("", "this machine", resources, {}))
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
    ray = LocalRay(code=tmp_path, node=Node("", "this machine", resources, {}))
    ray.wait()
    with pytest.raises(RuntimeError, match="Ray is gone"):
        ray.stop()
    assert not ray._thread.is_alive()
