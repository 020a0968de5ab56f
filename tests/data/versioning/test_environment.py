"""DVC runs under a user ID that has no account, no home folder, and no environment variables for them."""

import getpass
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toprung.data.versioning.environment import dvc_environment


def _no_account(*_):
    raise KeyError("getpwuid(): uid not found: 12345")


def test_a_user_without_an_account_gets_stand_ins_for_name_and_home(tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", _no_account)
    monkeypatch.setattr("pwd.getpwuid", _no_account)
    monkeypatch.delenv("HOME")
    environment = dvc_environment(tmp_path)
    assert (environment["USER"], environment["HOME"]) == (str(os.getuid()), str(tmp_path / ".dvc/tmp"))


def test_a_users_own_name_and_home_are_kept(tmp_path):
    environment = dvc_environment(tmp_path)
    assert {name: environment.get(name) for name in ("USER", "HOME")} == {
        name: os.environ.get(name) for name in ("USER", "HOME")
    }


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_dvc_works_for_a_user_id_without_an_account(dvc_project):
    for path in (dvc_project, *dvc_project.rglob("*")):
        os.chown(path, 12345, 12345)
    capability = "+dac_read_search"  # only root may be able to read the interpreter and pytest's folder
    user = [
        "--reuid=12345",
        "--regid=12345",
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
    ]
    module = "toprung.data.versioning.dvc_project"
    code = f"from pathlib import Path; from {module} import run_dvc; print(run_dvc('root', project=Path.cwd()))"
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "LOGNAME", "USER", "USERNAME")}
    ran = subprocess.run(
        ["setpriv", *user, sys.executable, "-P", "-c", code],
        cwd=dvc_project, env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout.strip()) == (0, "."), ran.stderr
    assert not Path(dvc_project, "~").exists()
