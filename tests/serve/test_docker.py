"""The Docker build context of an exported model: its server runs as it is, without Ray and torch."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.servers import free_port, is_healthy, wait_until
from toprung.errors import UserError
from toprung.export.predict import predict_files
from toprung.export.predictor import Predictor
from toprung.serve.docker import write_docker_context

HEAVY = {"mlflow", "optuna", "ray", "timm", "torch", "torchvision"}


@pytest.fixture(scope="module")
def context(photo_bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("docker") / "photos"
    write_docker_context(photo_bundle.folder, out, name="photos")
    return out


def instruction(context, name):
    """Return the arguments of an instruction that are a JSON list."""
    found = re.search(rf"^{name} (?:CMD )?(\[.*\])$", (context / "Dockerfile").read_text(), re.MULTILINE)
    return json.loads(found[1])


def test_every_file_that_the_dockerfile_copies_exists(context):
    copied = re.findall(r"^COPY (?:--chmod=\d+ )?(\S+) ", (context / "Dockerfile").read_text(), re.MULTILINE)
    assert copied == ["requirements.txt", "toprung", "model"]
    assert all((context / name).exists() for name in copied)


def test_the_server_imports_its_own_copy_and_nothing_heavy(context):
    program = (
        "import sys, toprung.serve.uvicorn_server as server; "
        "print(server.__file__, *{name.partition('.')[0] for name in sys.modules})"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=context, capture_output=True, text=True, check=True)
    file, *modules = output.stdout.split()
    assert Path(file).is_relative_to(context)
    assert HEAVY.isdisjoint(modules)


def test_the_command_serves_the_model(context, photo_bundle):
    port = free_port()
    _, *words = instruction(context, "CMD")
    words[words.index("0.0.0.0")] = "127.0.0.1"
    server = subprocess.Popen([sys.executable, *words, "--port", str(port)], cwd=context)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_healthy(url), "the server")
        file = str(next((photo_bundle.data_root / "raw" / "photos" / "red").iterdir()))
        with urllib.request.urlopen(urllib.request.Request(f"{url}/predict", data=Path(file).read_bytes())) as answer:
            (label,) = json.load(answer)["predictions"]
        (expected,) = predict_files(Predictor(photo_bundle.folder), [file])
        assert label["label"] == expected.labels[0].name
        assert label["probability"] == pytest.approx(expected.labels[0].probability, abs=1e-6)
        check = instruction(context, "HEALTHCHECK")[2].replace("8000", str(port))
        subprocess.run([sys.executable, "-c", check], check=True)
    finally:
        server.terminate()
        assert server.wait(timeout=60) == -signal.SIGTERM  # uvicorn raises it again after it has drained


def test_docker_builds_it(context):
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine runs on this machine")
    subprocess.run(["docker", "build", str(context)], check=True)


def test_a_folder_with_files_is_not_overwritten(photo_bundle, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty\. Give another folder"):
        write_docker_context(photo_bundle.folder, tmp_path, name="photos")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
