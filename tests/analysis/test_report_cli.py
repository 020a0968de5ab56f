"""`toprung report` and `toprung compare` on the command line."""

import gc
import json

import pytest
from typer.testing import CliRunner

from toprung.cli.report import app
from toprung.errors import UserError


@pytest.fixture
def run_cli(driver, user_project, unloaded_user_packages, monkeypatch):
    sweep = driver()
    for index in range(3):
        sweep.trial([0.5 + index / 10, 0.6 + index / 10], config={"optimizer": ["sgd", "adam", "adam"][index]})
    monkeypatch.chdir(user_project)

    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--storage", str(sweep.sweep_dir.path.parent)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    run.sweep_id = sweep.sweep_dir.sweep_id
    return run


def test_report_prints_the_path_of_the_page(run_cli):
    result = run_cli("report", run_cli.sweep_id)
    assert result.exit_code == 0
    assert f"{run_cli.sweep_id}/report/report.html" in result.stdout.replace("\n", "")


def test_report_turns_garbage_collection_on_again(run_cli):
    run_cli("report", run_cli.sweep_id)
    assert gc.isenabled()
    gc.unfreeze()


def test_compare_ranks_the_configurations_of_one_sweep(run_cli):
    content = json.loads(run_cli("compare", run_cli.sweep_id, "--json").stdout)
    groups = content["comparison"]["groups"]
    assert [group["intervals"]["value"]["mean"] for group in groups] == pytest.approx([0.75, 0.6])
    assert [group["fits"] for group in groups] == [{"underfits": 2}, {"underfits": 1}]
    assert content["sweeps"][0]["sweep_id"] == run_cli.sweep_id


def test_compare_groups_by_a_hyperparameter_and_answers_in_sentences(run_cli):
    result = run_cli("compare", run_cli.sweep_id, "--by", "optimizer")
    assert result.exit_code == 0
    assert "Which optimizer converges faster" in result.stdout
    assert "adam" in result.stdout


def test_an_unknown_sweep_gives_a_one_line_error(run_cli):
    with pytest.raises(UserError, match='No sweep "nothing"'):
        run_cli("compare", "nothing")
