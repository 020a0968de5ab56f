"""A Docker build context with an exported model and a plain server for it, which needs neither Ray nor torch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from toprung.data.prepare import atomic_folder
from toprung.errors import UserError
from toprung.export.predictor import Predictor
from toprung.export.requirements import pins
from toprung.exported_config import (
    CONFIG_FILE,
    LABELS_FILE,
    ONNX_FILE,
    PREPROCESSOR_FILE,
    REQUIREMENTS_FILE,
)

DOCKERFILE = "Dockerfile"
MODEL_FOLDER = "model"
MODEL_FILES = (CONFIG_FILE, LABELS_FILE, ONNX_FILE, PREPROCESSOR_FILE)
# The part of this package that the server imports. The packages' own __init__.py are left out: they import the rest.
SERVER_FILES = (
    "checksums.py",
    "data/image_folder/decode.py",
    "errors.py",
    "export/onnx_scoring.py",
    "export/predictor.py",
    "export/preprocessor.py",
    "exported_config.py",
    "serve/api.py",
    "serve/page.html",
    "serve/uvicorn_server.py",
)
REQUIREMENTS = ("fastapi", "numpy", "onnxruntime", "pillow", "prometheus-client", "uvicorn")
PACKAGE = Path(__file__).parents[1]
CONTENT = """\
# Build: docker build -t {name} .
# Run:   docker run --read-only --stop-timeout 35 -p 127.0.0.1:8000:8000 {name}
FROM python:{python}-slim
WORKDIR /server
COPY {requirements} .
RUN pip install --no-cache-dir --requirement {requirements}
COPY --chmod=755 toprung toprung
COPY --chmod=755 {model} {model}
RUN useradd --system server
USER server
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
CMD ["python", "-m", "toprung.serve.uvicorn_server", "{model}", "--name", "{name}", "--host", "0.0.0.0"]
"""


def write_docker_context(folder: Path, out: Path, *, name: str) -> None:
    """Write a folder for `docker build`: a Dockerfile, the packages to install, the server, and the model.

    Args:
        folder: the exported model.
        out: the folder to write, which must not exist or be empty.
        name: the model's name.

    Raises:
        UserError: `out` is not empty or cannot be written, or the model is damaged or has no ONNX file.
    """
    Predictor(folder, backend="onnxruntime")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty. Give another folder: toprung serve MODEL --docker FOLDER")
    with atomic_folder(out) as staging:
        for file in MODEL_FILES:
            _copy(folder / file, staging / MODEL_FOLDER / file)
        for file in SERVER_FILES:
            _copy(PACKAGE / file, staging / PACKAGE.name / file)
            for package in Path(PACKAGE.name, file).parents[:-1]:
                (staging / package / "__init__.py").touch()
        (staging / REQUIREMENTS_FILE).write_text("\n".join([*pins(*REQUIREMENTS), ""]), encoding="utf-8")
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        content = CONTENT.format(name=name, python=python, requirements=REQUIREMENTS_FILE, model=MODEL_FOLDER)
        (staging / DOCKERFILE).write_text(content, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
