"""A sweep's lineage in MLflow: tags of the sweep's own run, the source of every run, and the dataset as an input."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag, SourceType
from mlflow.tracking.context.default_context import DefaultRunContext
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

from toprung.records.lineage import Lineage

MAX_DIGEST_LENGTH = 36  # MLflow's limit on a dataset's digest


def lineage_tags(lineage: Lineage) -> dict[str, str]:
    """Return the tags of the sweep's own run. They hold for all its trials, whose runs do not repeat them."""
    return {
        "toprung.commit": lineage.commit or "unknown",
        "toprung.dirty": str(lineage.dirty).lower(),
        "toprung.lock_hash": lineage.lock_hash or "none",
        "toprung.data": lineage.data_name,
        "toprung.data_fingerprint": lineage.data_fingerprint,
        "toprung.split_fingerprint": lineage.split_fingerprint,
        **{f"toprung.{name}": value for name, value in _dvc(lineage).items()},
        **{f"toprung.weights.{name}": sha256 for name, sha256 in lineage.weights.items()},
        **({} if lineage.seed is None else {"toprung.seed": str(lineage.seed)}),
        **{f"toprung.version.{name}": version for name, version in lineage.versions.items()},
    }


def source_tags(lineage: Lineage, *, source: str) -> dict[str, str]:
    """Return the tags of every run that MLflow's pages show as its source, version and user.

    MLflow's fluent API sets them from the running script and its git checkout. Here they come from the sweep's records:
    the process that writes to MLflow is not the source, and the checkout may have changed since the sweep began.

    Args:
        lineage: the sweep's; its commit becomes the version.
        source: the recipe or the command that the sweep comes from.
    """
    tags = {
        MLFLOW_SOURCE_NAME: source,
        MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
        MLFLOW_USER: _user(),
    }
    return tags if lineage.commit is None else {**tags, MLFLOW_GIT_COMMIT: lineage.commit}


def _user() -> str:
    """Return the user that MLflow's own client would record."""
    try:
        return str(DefaultRunContext().tags()[MLFLOW_USER])  # type: ignore[no-untyped-call]
    except (KeyError, OSError):  # the user id has no name, as in some containers
        return "unknown"


def _dvc(lineage: Lineage) -> dict[str, str]:
    """Return DVC's hashes of the data and the name of its remote, as far as they are known."""
    fields = {name: getattr(lineage, name) for name in ("dvc_raw_md5", "dvc_prepared_md5", "dvc_remote")}
    return {name: value for name, value in fields.items() if value is not None}


def lineage_dataset(lineage: Lineage) -> DatasetInput:
    """Return the dataset as an input of a run, with DVC's hashes in its source."""
    source = {"dataset": lineage.data_name, "split_fingerprint": lineage.split_fingerprint, **_dvc(lineage)}
    dataset = Dataset(
        name=lineage.data_name,
        digest=lineage.data_fingerprint[:MAX_DIGEST_LENGTH],
        source_type="toprung",
        source=json.dumps(source),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])
