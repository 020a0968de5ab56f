"""A sweep that records at a real MLflow server: what is sent, counted on the way, and what never shows."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from toprung.tracking.server import ENVIRONMENT, artifact_location, masked, tracking_uri

SECRET = "correct-horse-battery"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real `mlflow server` on loopback."""
    folder, port = tmp_path_factory.mktemp("server"), _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        assert process.poll() is None, (folder / "log").read_text()
        try:
            urllib.request.urlopen(f"{url}/health").close()
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def counting(server):
    """A proxy before the server that notes every request: (method, path, body, authorization)."""
    seen = []

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.command, self.path, body, self.headers.get("Authorization")))
            kept = {n: v for n, v in self.headers.items() if n.lower() not in ("host", "content-length", "connection")}
            request = urllib.request.Request(server + self.path, data=body or None, headers=kept, method=self.command)
            try:
                answer = urllib.request.urlopen(request)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                content = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy.server_address[1], seen
        proxy.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def recorded(counting, server, new_bench, toprung, sweep_of, tmp_path_factory):
    port, seen = counting
    storage = tmp_path_factory.mktemp("recorded")
    settings = [f"storage={storage}", "metric=val/loss", "mode=min", "num_trials=4", "max_train=200"]
    flags = [word for setting in settings for word in ("--set", setting)]
    uri = f"http://someone:{SECRET}@127.0.0.1:{port}"
    command = toprung("sweep", "tune.smoke", *flags, folder=new_bench(), env={ENVIRONMENT: uri})
    assert command.code == 0, command.stdout + command.stderr
    requests = list(seen)
    return sweep_of(command, storage, uri=server), requests


def test_the_server_that_the_environment_names_has_the_runs_and_nothing_is_local(recorded):
    swept, requests = recorded
    assert len(swept.children) == 4
    assert swept.parent.info.status == "FINISHED"
    assert {run.info.status for run in swept.children.values()} <= {"FINISHED", "KILLED"}
    assert [path.name for path in swept.storage.iterdir()] == [swept.shown["sweep_id"]]
    assert all(authorization and authorization.startswith("Basic ") for *_, authorization in requests)


def test_a_report_is_one_request(recorded):
    swept, requests = recorded
    batches = [json.loads(body) for _, path, body, _ in requests if path.endswith("/runs/log-batch")]
    of_children = {run.info.run_id: trial_id for trial_id, run in swept.children.items()}
    reports = [batch for batch in batches if batch["run_id"] in of_children and batch.get("metrics")]
    assert len(reports) == sum(trial["epochs"] for trial in swept.shown["trials"])
    for batch in reports:
        assert {metric["key"] for metric in batch["metrics"]} == {
            "train/loss", "val/loss", "val/accuracy", "time/epoch_seconds"
        }  # fmt: skip
    assert not [path for _, path, _, _ in requests if path.endswith(("/log-metric", "/log-parameter", "/set-tag"))]


def test_parameters_are_sent_once_a_trial(recorded):
    _, requests = recorded
    batches = [json.loads(body) for _, path, body, _ in requests if path.endswith("/runs/log-batch")]
    assert len([batch for batch in batches if batch.get("params")]) == 4


def test_every_child_keeps_its_weights_at_the_server(recorded):
    swept, _ = recorded
    for run in swept.children.values():
        assert {"model.pth", "config.json"} <= {file.path for file in swept.client.list_artifacts(run.info.run_id)}


def test_where_less_is_better_the_least_wins(recorded):
    swept, _ = recorded
    assert swept.shown["metric"] == "val/loss"
    assert swept.shown["best"]["value"] == min(trial["value"] for trial in swept.shown["trials"])
    metrics = json.loads((swept.folder / "export" / "metrics.json").read_text())
    assert metrics["verified"]["val/loss"] == swept.shown["best"]["value"]


def test_the_password_is_nowhere_but_in_the_environment(recorded, toprung):
    swept, requests = recorded
    assert SECRET not in swept.command.stdout + swept.command.stderr + json.dumps(swept.shown)
    assert swept.shown["tracking_uri"].startswith("http://***@127.0.0.1:")
    shown = toprung("show", swept.shown["sweep_id"], "--storage", swept.storage, folder=swept.command.folder)
    assert SECRET not in shown.stdout
    told = [file for file in swept.storage.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert told == []
    assert not [path for _, path, body, _ in requests if SECRET.encode() in body or SECRET in path]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:secret@host:5000/path", "http://***@host:5000/path"),
        ("https://token@host", "https://***@host"),
        ("postgresql://user:se@cret@host/db", "postgresql://***@host/db"),
        ("postgresql://user:se/cret@host/db", "postgresql://***@host/db"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a/b/mlflow.db", "sqlite:////a/b/mlflow.db"),
        ("no answer from http://a:b@c/d, tried http://a:b@c/e", "no answer from http://***@c/d, tried http://***@c/e"),
    ],
)
def test_secrets_in_an_address_are_masked(uri, shown):
    assert masked(uri) == shown


def test_runs_are_kept_in_a_local_file_unless_the_environment_names_a_server(tmp_path, monkeypatch):
    local = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(tmp_path) == local
    assert artifact_location(tmp_path, local) == f"file://{tmp_path}/mlartifacts"
    monkeypatch.setenv(ENVIRONMENT, "http://host")
    assert tracking_uri(tmp_path) == "http://host"
    assert artifact_location(tmp_path, "http://host") is None
