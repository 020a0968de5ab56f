"""What a sweep needs beside Ray: MLflow, DVC's remote, a prepared dataset."""

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
    """Check that git reads the project: a sweep records the commit and copies no file that git ignores."""
    try:
        commit = is_checkout(project) and query_git(project, "rev-parse", "--verify", "--quiet", "HEAD")
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        return Finding("git", "error", observed, remedy)
    observed = f"commit {commit.decode().strip()[:12]}" if commit else "no commit: a sweep records none"
    return Finding("git", "ok", observed)


def check_tracking(uri: str) -> Finding:
    """Whether MLflow answers, knows us, and is of our version."""
    file = database_file(uri)
    if file is not None and not file.exists():
        return Finding("MLflow", "ok", f"{mask_uri(uri)}: the first sweep makes it")
    from toprung.tracking import connection  # imports MLflow, which takes seconds

    try:
        connection.check(uri)
    except UserError as error:
        observed, _, remedy = str(error).rpartition("). ")
        return Finding("MLflow", "error", f"{observed})", remedy)
    ours, theirs = metadata.version("mlflow"), _server_version(uri)
    if theirs is not None and theirs.split(".")[:2] != ours.split(".")[:2]:
        remedy = f"Type on the server: pip install mlflow=={ours}"
        return Finding("MLflow", "warning", f"{mask_uri(uri)} is {theirs}, here it is {ours}", remedy)
    return Finding("MLflow", "ok", f"{mask_uri(uri)}{f', version {theirs}' if theirs else ''}")


def _server_version(uri: str) -> str | None:
    """What a tracking server says it is; None where it does not say, or where it is a database."""
    import requests

    if not uri.startswith(("http://", "https://")):
        return None
    try:
        answer = requests.get(f"{uri.rstrip('/')}/version", timeout=5)
    except requests.RequestException:
        return None
    text = answer.text.strip()
    return text if answer.ok and text[:1].isdigit() and len(text) < 30 else None


def check_data_remote(project: Path) -> Finding:
    """Whether DVC's default remote answers and knows us."""
    from toprung.data.remotes.check import require_reachable

    try:
        remotes = read_remotes(project)
        default = next((remote for remote in remotes if remote.is_default), None)
        if default is None:
            some = f"{len(remotes)} remotes, none is the default" if remotes else "none: the data stay on this machine"
            return Finding("DVC remote", "ok", some, "To share them: toprung data remote add NAME URL")
        require_reachable(default, project=project)
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        return Finding("DVC remote", "error", observed, remedy or "Type: toprung data remote check")
    return Finding("DVC remote", "ok", f'"{default.name}" ({mask_uri(default.url)}) answers')


def check_dvc_files(project: Path) -> Finding:
    """Check that DVC finds every .dvc file: plain `dvc pull` deletes the data of those that it overlooks."""
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
    """Bytes of images of every prepared dataset, by name; a damaged one has none."""
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
    """Which datasets a sweep can start with."""
    missing = [name for name in data.SOURCES if name not in prepared]
    remedy = f"Type: toprung data prepare {missing[0]}" if missing else ""
    if not prepared:
        return Finding("data", "warning", "no dataset is prepared", remedy)
    listed = ", ".join(f"{name} ({format_size(num_bytes)})" for name, num_bytes in prepared.items())
    return Finding("data", "ok", f"prepared: {listed}")
