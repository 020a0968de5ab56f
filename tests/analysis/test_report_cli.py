"""`toprung report` and `toprung compare`, as typed."""

import json

import pytest
from typer.testing import CliRunner

from toprung.cli.report import report_app
from toprung.errors import UserError


@pytest.fixture
def typed(driver, workbench, forgotten_workbench, monkeypatch):
    sweep = driver()
    for index in range(3):
        sweep.trial([0.5 + index / 10, 0.6 + index / 10], config={"optimizer": ["sgd", "adam", "adam"][index]})
    monkeypatch.chdir(workbench)

    def run(*arguments):
        done = CliRunner().invoke(report_app, [*arguments, "--storage", str(sweep.sweep_dir.path.parent)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    run.sweep_id = sweep.sweep_dir.sweep_id
    return run


def test_report_prints_where_the_page_lies(typed):
    done = typed("report", typed.sweep_id)
    assert done.exit_code == 0
    assert f"{typed.sweep_id}/report/report.html" in done.stdout.replace("\n", "")


def test_compare_ranks_the_configurations_of_one_sweep(typed):
    content = json.loads(typed("compare", typed.sweep_id, "--json").stdout)
    groups = content["comparison"]["groups"]
    assert [group["intervals"]["value"]["mean"] for group in groups] == pytest.approx([0.75, 0.6])
    assert [group["fits"] for group in groups] == [{"underfits": 2}, {"underfits": 1}]
    assert content["sweeps"][0]["sweep_id"] == typed.sweep_id


def test_compare_groups_by_a_hyperparameter_and_answers_in_words(typed):
    done = typed("compare", typed.sweep_id, "--by", "optimizer")
    assert done.exit_code == 0
    assert "Which optimizer converges faster" in done.stdout
    assert "adam" in done.stdout


def test_an_unknown_sweep_is_a_line(typed):
    with pytest.raises(UserError, match='No sweep "nothing"'):
        typed("compare", "nothing")
