"""Log an exported model to MLflow as a logged model, and register it as a version of a registered model."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.exported_config import LABELS_FILE, MODEL_CARD_FILE, ONNX_FILE, PREPROCESSOR_FILE
from toprung.records.sweep_dir import SweepDirectory
from toprung.tracking import server
from toprung.tracking.artifacts import open_client, record_run, translated_errors

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from numpy.typing import NDArray

CHAMPION, CHALLENGER = "champion", "challenger"
MAX_DIGEST_LENGTH = 36  # MLflow's limit


@dataclass(frozen=True)
class EvaluatedDataset:
    """A dataset on which a model was scored, and its scores."""

    name: str
    digest: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model, with the tags that toprung gave it."""

    name: str
    version: str
    tags: Mapping[str, str]


def find_champion(sweep_dir: SweepDirectory, name: str) -> RegisteredVersion | None:
    """Return the version that has the alias `champion`, if there is one.

    Raises:
        UserError: MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    _, client = open_client(sweep_dir)
    absent = {ErrorCode.Name(code) for code in (INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST)}
    with translated_errors(sweep_dir):
        try:
            version = client.get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code in absent:
                return None
            raise
    return RegisteredVersion(name, str(version.version), dict(version.tags))


def log_model(
    sweep_dir: SweepDirectory,
    folder: Path,
    *,
    name: str,
    run_id: str,
    tags: Mapping[str, str],
    datasets: Sequence[EvaluatedDataset],
    requirements: Sequence[str],
    example_NCHW: NDArray[np.uint8],
) -> str:
    """Log an exported ONNX file as a logged model of its trial's run, and return the id of the model.

    Its scores are recorded in a run of their own, tied to the model and to the digest of each dataset: the trial's run
    keeps only what the trial reported.

    Args:
        sweep_dir: the sweep that the trial belongs to.
        folder: the exported model.
        name: the name of the logged model.
        run_id: the trial's run.
        tags: the tags of the logged model.
        datasets: the model's scores.
        requirements: the packages that run the model, each with its version.
        example_NCHW: an image, as an example of the model's input.

    Raises:
        UserError: MLflow does not answer, or refuses.
    """
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = onnx.load(folder / ONNX_FILE)
    signature = ModelSignature(
        Schema([_tensor_spec(TensorSpec, value) for value in model.graph.input]),
        Schema([_tensor_spec(TensorSpec, value) for value in model.graph.output]),
    )
    with _connected(sweep_dir) as client:
        experiment_id = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(
            experiment_id, name=name, source_run_id=run_id, tags=dict(tags), model_type="onnx"
        )
        mlflow.onnx.log_model(
            model,
            name=name,
            model_id=logged.model_id,
            signature=signature,
            input_example=example_NCHW,
            pip_requirements=list(requirements),
            save_as_external_data=False,
            extra_files=[str(folder / file) for file in (LABELS_FILE, PREPROCESSOR_FILE, MODEL_CARD_FILE)],
        )
        evaluation = record_run(sweep_dir, name="evaluation", params={"model": name}, history={}, files=[])
        for dataset in datasets:
            for metric, value in dataset.metrics.items():
                client.log_metric(
                    evaluation, metric, value, model_id=logged.model_id,
                    dataset_name=dataset.name, dataset_digest=dataset.digest[:MAX_DIGEST_LENGTH],
                )  # fmt: skip
    return str(logged.model_id)


def register_version(
    sweep_dir: SweepDirectory, model_id: str, *, name: str, alias: str, description: str, tags: Mapping[str, str]
) -> RegisteredVersion:
    """Register a logged model as a new version of a registered model, under an alias.

    Args:
        sweep_dir: the sweep that the model belongs to.
        model_id: the logged model, from `log_model`.
        name: the registered model.
        alias: the alias to set.
        description: the description of the version.
        tags: the tags of the version.

    Raises:
        UserError: MLflow does not answer, or refuses.
    """
    import mlflow

    with _connected(sweep_dir) as client:
        version = mlflow.register_model(f"models:/{model_id}", name, tags=dict(tags)).version
        client.set_registered_model_alias(name, alias, version)
        client.update_model_version(name, version, description)
    return RegisteredVersion(name, str(version), tags)


@contextlib.contextmanager
def _connected(sweep_dir: SweepDirectory) -> Iterator[MlflowClient]:
    """Point MLflow's functions to the sweep's server, and yield a client; errors become a UserError."""
    import mlflow

    _, client = open_client(sweep_dir)
    uri = server.tracking_uri(sweep_dir.path.parent)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with translated_errors(sweep_dir), _quiet():
        yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's progress bars, its messages and its warning about a missing GPU away from the terminal."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _tensor_spec(spec: Any, value: Any) -> Any:
    """Return MLflow's specification of an input or output of an ONNX file; its first axis has any size."""
    import onnx

    tensor = value.type.tensor_type
    sizes = [dimension.dim_value for dimension in tensor.shape.dim]
    return spec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), (-1, *sizes[1:]), value.name)
