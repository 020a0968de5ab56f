"""Checks of what a sweep needs besides Ray: git, MLflow, the DVC remote, prepared datasets."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from toprung import data
from toprung.cluster.doctor.finding import Finding, format_size
from toprung.data.versioning.config import read_remotes
from toprung.data.versioning.dvc_project import is_dvc_repository
from toprung.data.versioning.targets import hidden_files, hidden_note
from toprung.errors import UserError
from toprung.git_command import is_checkout, query_git
from toprung.secrets import mask_uri
from toprung.tracking.local_store import database_file


def check_git(project: Path) -> Finding:
    """Check that git can read the project: a sweep records the commit and copies no file that git ignores."""
    try:
        commit = is_checkout(project) and query_git(project, "rev-parse", "--verify", "--quiet", "HEAD")
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        return Finding("git", "error", observed, remedy)
    observed = f"commit {commit.decode().strip()[:12]}" if commit else "no commit, so a sweep records none"
    return Finding("git", "ok", observed)


def check_tracking(uri: str) -> Finding:
    """Check that MLflow answers, accepts the credentials, and has the same minor version as here."""
    file = database_file(uri)
    if file is not None and not file.exists():
        return Finding("MLflow", "ok", f"{mask_uri(uri)}: the first sweep creates it")
    from toprung.tracking import connection  # imports MLflow, which takes seconds

    try:
        connection.check(uri)
    except UserError as error:
        observed, _, remedy = str(error).rpartition("). ")
        return Finding("MLflow", "error", f"{observed})", remedy)
    ours, theirs = metadata.version("mlflow"), _server_version(uri)
    if theirs is not None and theirs.split(".")[:2] != ours.split(".")[:2]:
        remedy = f"On the server, type: pip install mlflow=={ours}"
        return Finding("MLflow", "warning", f"{mask_uri(uri)} runs version {theirs}, here it is {ours}", remedy)
    return Finding("MLflow", "ok", f"{mask_uri(uri)}{f', version {theirs}' if theirs else ''}")


def _server_version(uri: str) -> str | None:
    """Return the version of a tracking server; None if it does not report one, or if the URI is a database."""
    import requests

    if not uri.startswith(("http://", "https://")):
        return None
    try:
        response = requests.get(f"{uri.rstrip('/')}/version", timeout=5)
    except requests.RequestException:
        return None
    text = response.text.strip()
    return text if response.ok and text[:1].isdigit() and len(text) < 30 else None


def check_data_remote(project: Path) -> Finding:
    """Check that DVC's default remote answers and accepts the credentials."""
    from toprung.data.remotes.check import require_reachable

    try:
        remotes = read_remotes(project)
        default = next((remote for remote in remotes if remote.is_default), None)
        if default is None:
            observed = f"{len(remotes)} remotes, none is the default" if remotes else "none: data stay on this machine"
            return Finding("DVC remote", "ok", observed, "To share data, type: toprung data remote add NAME URL")
        require_reachable(default, project=project)
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        return Finding("DVC remote", "error", observed, remedy or "Type: toprung data remote check")
    return Finding("DVC remote", "ok", f'"{default.name}" ({mask_uri(default.url)}) answers')


def check_dvc_files(project: Path) -> Finding:
    """Check that DVC finds every .dvc file: a plain `dvc pull` deletes the data of those that it overlooks."""
    try:
        hidden = hidden_files(project) if is_dvc_repository(project) else ()
        note = hidden_note(hidden, project=project) if hidden else ""
    except UserError as error:
        note = str(error)
    observed, _, remedy = note.partition(". ")
    if note:
        return Finding("DVC files", "warning", observed.rstrip("."), remedy)
    return Finding("DVC files", "ok", f"DVC finds every .dvc file in {data.RAW}")


def prepared_bytes(project: Path) -> dict[str, int]:
    """Return the size of the images of every prepared dataset, in bytes by name; damaged datasets are left out."""
    folder = project / data.PREPARED
    num_bytes_by_name = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            images_NCHW = data.open_prepared(path.name, root=folder).images_NCHW
        except UserError:
            continue
        num_bytes_by_name[path.name] = images_NCHW.size * images_NCHW.itemsize
    return num_bytes_by_name


def check_data(prepared: dict[str, int]) -> Finding:
    """Check that a dataset is prepared; a sweep can start with those listed."""
    missing = [name for name in data.SOURCES if name not in prepared]
    remedy = f"Type: toprung data prepare {missing[0]}" if missing else ""
    if not prepared:
        return Finding("data", "warning", "no dataset is prepared", remedy)
    listed = ", ".join(f"{name} ({format_size(num_bytes)})" for name, num_bytes in prepared.items())
    return Finding("data", "ok", f"prepared: {listed}")
