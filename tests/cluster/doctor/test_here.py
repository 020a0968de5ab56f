"""`toprung doctor` on this machine: as it is, and with real faults."""

import pytest

from tests.servers import free_port


@pytest.fixture(scope="module")
def healthy(doctor):
    return doctor()


@pytest.fixture(scope="module")
def broken(doctor, doctor_bench):
    """The lock pins another optuna, the storage is not a folder, MLflow is down, and Ray is set to listen publicly."""
    lock = doctor_bench / "requirements.lock"
    text = lock.read_text()
    lock.write_text("\n".join("optuna==4.9.9" if line.startswith("optuna==") else line for line in text.splitlines()))
    try:
        return doctor(
            "--storage",
            "requirements.lock/runs",
            MLFLOW_TRACKING_URI=f"http://somebody:s3cret@127.0.0.1:{free_port()}",
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1",
        )
    finally:
        lock.write_text(text)


def test_a_healthy_machine_has_no_error(healthy):
    assert healthy.code == 0, healthy.output
    assert {"lock", "nodes", "versions", "code", "storage", "clock", "torch", "access", "data"} <= {
        name for name, state in healthy.states().items() if state == "ok"
    }


def test_nothing_is_left_behind(healthy, doctor_bench):
    assert sorted(path.name for path in doctor_bench.iterdir()) == [
        "data",
        "requirements.lock",
        "search_spaces",
        "trainers",
        "tune",
    ]


@pytest.mark.parametrize(
    ("name", "state", "message", "remedy"),
    [
        ("lock", "warning", "4.9.9 locked", "make install"),
        ("storage", "error", "Not a directory", "--storage"),
        ("MLflow", "error", "cannot be used (Connection refused: ", "unset MLFLOW_TRACKING_URI"),
    ],
)
def test_a_fault_is_reported_with_its_remedy(broken, name, state, message, remedy):
    finding = broken.only(name)
    assert (finding.state, broken.code) == (state, 1)
    assert message in finding.observed
    assert remedy in finding.remedy


def test_a_private_ray_listens_on_loopback_even_if_the_environment_says_otherwise(broken):
    finding = broken.only("access")
    assert (finding.state, finding.observed) == ("ok", "a private Ray: a token is required, on loopback only")


def test_no_secret_is_printed(broken):
    assert "s3cret" not in broken.output


def test_an_address_where_nothing_listens_fails_at_once(doctor):
    result = doctor("--address", f"127.0.0.1:{free_port()}")
    assert result.code == 1
    assert "Connection refused" in result.only("ray").observed
    assert "ray start --head" in result.only("ray").remedy


def test_a_malformed_address_gets_an_example_of_a_valid_one(doctor):
    assert "auto or HOST:PORT" in str(doctor("--address", "here").only("ray"))
