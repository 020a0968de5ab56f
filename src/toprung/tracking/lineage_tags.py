"""A sweep's lineage in MLflow's words: tags of every run, and the dataset as an input."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from toprung.records.lineage import Lineage

MAX_DIGEST_LENGTH = 36  # MLflow's own limit on a dataset's digest


def lineage_tags(lineage: Lineage) -> dict[str, str]:
    """What every run of a sweep carries of its lineage."""
    return {
        "toprung.commit": lineage.commit or "unknown",
        "toprung.dirty": str(lineage.dirty).lower(),
        "toprung.lock_hash": lineage.lock_hash or "none",
        "toprung.data": lineage.data_name,
        "toprung.data_fingerprint": lineage.data_fingerprint,
        "toprung.split_fingerprint": lineage.split_fingerprint,
        **{f"toprung.{name}": value for name, value in _dvc(lineage).items()},
        **({} if lineage.seed is None else {"toprung.seed": str(lineage.seed)}),
        **{f"toprung.version.{name}": version for name, version in lineage.versions.items()},
    }


def _dvc(lineage: Lineage) -> dict[str, str]:
    """What DVC calls the data, where it knows it."""
    known = {name: getattr(lineage, name) for name in ("dvc_raw_md5", "dvc_prepared_md5", "dvc_remote")}
    return {name: value for name, value in known.items() if value is not None}


def lineage_dataset(lineage: Lineage) -> DatasetInput:
    """The dataset as an input of a run, named as DVC names it."""
    source = {"dataset": lineage.data_name, "split_fingerprint": lineage.split_fingerprint, **_dvc(lineage)}
    described = Dataset(
        name=lineage.data_name,
        digest=lineage.data_fingerprint[:MAX_DIGEST_LENGTH],
        source_type="toprung",
        source=json.dumps(source),
    )
    return DatasetInput(dataset=described, tags=[InputTag("mlflow.data.context", "training")])
