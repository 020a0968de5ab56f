"""The evaluation of node reports, for states that cannot be produced on a test machine."""

from dataclasses import replace

import pytest

from toprung.cluster.doctor import Finding, access, capacity, errors, warnings
from toprung.cluster.doctor.clock import check_clocks, clock_offset
from toprung.cluster.doctor.code import check_code, project_hash, toprung_hash
from toprung.cluster.doctor.node import NodeReport, Torch, Usage
from toprung.cluster.doctor.nodes import Node, NodeResponse, check_nodes
from toprung.cluster.doctor.sockets import is_loopback
from toprung.cluster.doctor.versions import check_versions, local_versions

GB = 10**9
REPORT = NodeReport(
    versions=local_versions(),
    toprung_hash=toprung_hash(),
    project_hash="",
    num_cores=4,
    memory=Usage(32 * GB, 16 * GB),
    shared_memory=Usage(16 * GB, 16 * GB),
    disk=Usage(100 * GB, 50 * GB),
    disk_path="/tmp/ray",
    storage_problem=None,
    sees_mmap_dir=True,
    torch=Torch(num_gpus=0, num_threads=4, cuda="-"),
    listening=(),
)
NODE = Node("a" * 56, "10.0.0.2", "node aaaaaaaa (10.0.0.2)", {"CPU": 4.0, "object_store_memory": 8.0 * GB})


def _response(*, resources=None, clock=None, **changes):
    node = replace(NODE, resources={**NODE.resources, **(resources or {})})
    return NodeResponse(node, replace(REPORT, **changes), None, clock)


def _only(findings):
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("num_gpus", "counted", "state"),
    [(2, 2, "ok"), (0, 0, "ok"), (1, 2, "error"), (2, 1, "warning"), (1, 0, "warning")],
)
def test_torch_and_ray_must_count_the_same_gpus(num_gpus, counted, state):
    response = _response(torch=Torch(num_gpus, 4, "13.0"), resources={"GPU": float(counted)})
    assert _only(capacity.check_torch([response])).state == state


def test_a_torch_that_cannot_be_imported_is_an_error_with_the_reason():
    finding = _only(capacity.check_torch([_response(torch="ImportError: libcudnn.so.9")]))
    assert (finding.state, finding.observed) == ("error", "ImportError: libcudnn.so.9")


@pytest.mark.parametrize(("free", "state"), [(16 * GB, "ok"), (2 * GB, "warning"), (GB, "error")])
def test_low_memory_is_a_warning_and_an_error_when_ray_would_kill_workers(free, state):
    assert _only(capacity.check_memory([_response(memory=Usage(32 * GB, free))])).state == state


@pytest.mark.parametrize(("free", "state"), [(50 * GB, "ok"), (4.9 * GB, "error")])
def test_a_disk_that_is_fuller_than_ray_allows_is_an_error(free, state):
    assert _only(capacity.check_disk([_response(disk=Usage(100 * GB, int(free)))])).state == state


def test_small_shared_memory_is_a_warning_that_says_how_to_enlarge_it():
    finding = _only(capacity.check_shared_memory([_response(shared_memory=Usage(64 * 10**6, 64 * 10**6))]))
    assert (finding.state, "--shm-size=8g" in finding.remedy) == ("warning", True)


def test_two_nodes_on_one_machine_share_its_cores():
    finding = _only(capacity.check_cores([_response(), _response()]))
    assert (finding.state, finding.node) == ("warning", "10.0.0.2")
    assert "8 CPUs on 4 cores" in finding.observed


@pytest.mark.parametrize(
    ("clock", "offset"),
    [((10.0, 10.1, 10.2), 0.0), ((10.0, 12.0, 10.2), 1.8), ((10.0, 9.0, 10.2), -1.0), ((10.0, 10.2, 10.2), 0.0)],
)
def test_a_clock_offset_excludes_the_time_between_request_and_response(clock, offset):
    assert clock_offset(clock) == pytest.approx(offset)


@pytest.mark.parametrize(("offset", "state"), [(0.5, "ok"), (-2.0, "warning"), (61.0, "error"), (-3600.0, "error")])
def test_a_clock_offset_is_a_warning_or_an_error(offset, state):
    assert _only(check_clocks([_response(clock=(100.0, 100.0 + offset, 100.0))])).state == state


def test_a_missing_package_is_an_error_and_another_version_of_toprung_is_not():
    theirs = {name: version for name, version in local_versions().items() if name not in ("torch", "toprung")}
    finding = _only(check_versions([_response(versions=theirs)], here=local_versions()))
    assert finding.state == "error"
    assert finding.observed.startswith("torch missing (here ")


@pytest.mark.parametrize(("theirs", "state"), [("2.14.1", "ok"), ("2.14.1+cu130", "ok"), ("2.14.0+cpu", "error")])
def test_another_build_of_the_same_version_is_not_an_error(theirs, state):
    here = local_versions() | {"torch": "2.14.1+cpu"}
    assert _only(check_versions([_response(versions=here | {"torch": theirs})], here=here)).state == state


def test_missing_code_and_other_code_have_different_remedies(tmp_path):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "mine.py").write_text("DEFAULTS = {}\n")
    missing = _only(check_code([_response()], code=tmp_path))
    other = _only(check_code([_response(project_hash="0" * 12)], code=tmp_path))
    same = _only(check_code([_response(project_hash=project_hash(tmp_path))], code=tmp_path))
    assert (missing.state, other.state, same.state) == ("error", "error", "ok")
    assert "runtime_env" in missing.remedy
    assert "PYTHONPATH" in other.remedy


def test_a_node_that_fails_is_an_error_with_the_reason():
    failed = NodeResponse(NODE, None, "ModuleNotFoundError: No module named 'toprung'")
    finding = _only(check_nodes([_response(), failed], [], timeout_seconds=9))
    assert finding.state == "error"
    assert finding.observed.startswith("ModuleNotFoundError")


def test_a_dead_node_is_named_but_not_an_error():
    finding = _only(check_nodes([_response()], [NODE], timeout_seconds=9))
    assert finding.state == "ok"
    assert finding.observed == "1 alive, it answered; 1 dead (node aaaaaaaa (10.0.0.2))"


@pytest.mark.parametrize(
    ("without_token", "listening", "state"),
    [
        ("refuses", ("0.0.0.0:6379 (gcs_server)",), "ok"),
        ("accepts", ("0.0.0.0:6379 (gcs_server)",), "error"),
        ("accepts", (), "warning"),
        ("unknown", (), "warning"),
    ],
)
def test_a_cluster_without_a_token_is_an_error_if_others_can_reach_it(without_token, listening, state):
    assert _only(access.check_access([_response(listening=listening)], without_token=without_token)).state == state


def test_a_private_ray_that_others_can_reach_is_an_error(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    finding = _only(access.check_private([_response(listening=("0.0.0.0:6379 (gcs_server)",))], []))
    assert (finding.state, finding.observed) == (
        "error",
        "a private Ray listens beyond loopback: 0.0.0.0:6379 (gcs_server)",
    )


def test_a_private_ray_without_a_token_is_an_error(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert _only(access.check_private([_response()], [])).state == "error"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback_is_recognized_in_every_notation(address, expected):
    assert is_loopback(address) is expected


def test_a_finding_is_formatted_as_one_line():
    assert (
        str(Finding("disk", "error", "1 GB free", "Make room.", node="node a"))
        == "disk on node a: 1 GB free. Make room."
    )
    assert str(Finding("data", "ok", "prepared: digits")) == "data: prepared: digits."


def test_errors_and_warnings_are_selected_by_state():
    findings = [Finding("a", "ok", ""), Finding("b", "warning", ""), Finding("c", "error", "")]
    assert [finding.name for finding in errors(findings)] == ["c"]
    assert [finding.name for finding in warnings(findings)] == ["b"]
