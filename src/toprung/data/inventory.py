"""List the datasets of a project, built in, added or prepared, from a few small files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toprung.data.card import CARD_FILE, DatasetCard, read_card
from toprung.data.prepared import PREPARED
from toprung.data.sources import SOURCES
from toprung.data.versioning.dvc_project import PREFIX, RAW, read_yaml
from toprung.data.versioning.lineage import prepared_md5, tracked_md5
from toprung.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """A dataset: `card` is None if it is not prepared here; `problem` says what is wrong with its card."""

    name: str
    origin: str
    card: DatasetCard | None
    problem: str | None
    raw_md5: str | None
    prepared_md5: str | None


def list_datasets(project: Path) -> list[Dataset]:
    """Return all datasets of the project, sorted by name.

    Raises:
        UserError: dvc.yaml or dvc.lock cannot be read.
    """
    names = set(SOURCES)
    names |= {path.stem for path in (project / RAW).glob("*.dvc")}
    names |= {path.parent.name for path in (project / PREPARED).glob(f"*/{CARD_FILE}")}
    stages = (read_yaml(project / "dvc.yaml").get("stages") or {}) if (project / "dvc.yaml").is_file() else {}
    names |= {stage.removeprefix(PREFIX) for stage in stages if stage.startswith(PREFIX)}
    return [_dataset(name, project) for name in sorted(names)]


def _dataset(name: str, project: Path) -> Dataset:
    card, problem = None, None
    if (project / PREPARED / name).is_dir():
        try:
            card = read_card(project / PREPARED / name)
        except UserError as error:
            problem = str(error)
    origin = "built in" if name in SOURCES else (RAW / name).as_posix()
    return Dataset(
        name,
        origin,
        card,
        problem,
        tracked_md5(name, project=project),
        prepared_md5(name, project=project),
    )
