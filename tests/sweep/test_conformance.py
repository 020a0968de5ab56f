"""`toprung check`: a good loop passes every check, and each kind of mistake fails the corresponding check."""

import subprocess
import sys
from pathlib import Path

import pytest

from toprung import data
from toprung.errors import UserError
from toprung.sweep.conformance import NUM_EPOCHS, build_check, check_loop

PROJECT = Path(__file__).parents[2]
RESTORE = "session.restore(model, optimizer, schedule)"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    data.prepare("digits", out=root / data.PREPARED / "digits")
    (root / "checked_loops").mkdir()
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


@pytest.fixture
def check(project):
    """Return a function that changes the convnet's source, checks it, and returns its results by name."""

    def run(name, *changes, until=None, metric="val/accuracy", **settings):
        source = (PROJECT / "trainers/convnet.py").read_text()
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        (project / "checked_loops" / f"{name}.py").write_text(source)
        built = build_check(
            project,
            f"checked_loops.{name}",
            settings={"width": 4, "depth": 2, "batch_size": 32, **settings},
            dataset="digits",
            max_train=120,
            metric=metric,
        )
        results = {}
        for result in check_loop(built):
            results[result.name] = result
            if result.name == until:
                break
        return results

    return run


def test_a_good_loop_passes_every_check(check):
    results = check("good", augment="heavy", dropout=0.2, schedule="onecycle")
    assert {name: result.state for name, result in results.items()} == dict.fromkeys(
        (
            "train and report",
            "same seed",
            "other seed",
            "stop and restore",
            "restore at the end",
            "images",
            "export",
            "2 workers",
        ),
        "ok",
    )


def test_a_loop_that_raises_fails_the_first_check_and_ends_it(check):
    results = check("raises", ("loss.backward()", "loss.backwards()"))
    (result,) = results.values()
    assert (result.name, result.state) == ("train and report", "error")
    assert "has no attribute 'backwards'" in result.message


def test_a_loop_that_reports_once_fails_the_first_check(check):
    results = check("once", ('range(run.next_epoch, config["num_epochs"])', "range(1)"))
    assert [result.message for result in results.values()] == [
        f"1 reports in {NUM_EPOCHS} epochs: call session.report once per epoch, for config['num_epochs'] epochs"
    ]


@pytest.mark.parametrize(
    ("name", "change", "failing", "expected"),
    [
        (
            "unseeded",
            ("    model.train()\n", "    model.train()\n    torch.seed()\n"),
            "same seed",
            "draw all random numbers from torch",
        ),
        (
            "forgets_the_optimizer",
            (RESTORE, "session.restore(model)"),
            "stop and restore",
            "pass model, optimizer and schedule to session.restore",
        ),
        ("begins_again", ("range(run.next_epoch, ", "range(0, "), "stop and restore", "start at run.next_epoch"),
        (
            "writes_images",
            ("    model.train()\n", "    model.train()\n    split.images_NCHW.clamp_(max=9)\n"),
            "images",
            "work on a copy of each batch",
        ),
        (
            "reports_too_much",
            ("metrics=session.metrics())}", 'metrics=session.metrics()), "val/accuracy": 0.99}'),
            "export",
            "the loop reported 0.9900",
        ),
        (
            "cannot_be_built_again",
            ("    model = session.prepare(model", "    model.architecture = None\n    model = session.prepare(model"),
            "export",
            "use vision.build_with",
        ),
    ],
)
def test_each_mistake_fails_its_own_check(check, name, change, failing, expected):
    result = check(name, change, until=failing)[failing]
    assert result.state == "error"
    assert expected in result.message


def test_the_score_of_the_sweeps_own_metric_is_checked_too(check):
    given = ("metrics=session.metrics())}", 'metrics=session.metrics()), "val/f1_macro": 0.99}')
    result = check("own_f1", given, until="export", metric="val/f1_macro")["export"]
    assert result.state == "error"
    assert "the best weights score val/f1_macro " in result.message


def test_a_loop_that_seeds_itself_is_warned_of(check):
    seeded = ("    data = session.dataset()\n", "    data = session.dataset()\n    torch.manual_seed(5)\n")
    again = (RESTORE, RESTORE + "\n    torch.manual_seed(5)")
    per_epoch = ("    model.train()\n", "    model.train()\n    torch.manual_seed(5)\n")
    assert check("seeds_itself", seeded, again, per_epoch, until="other seed")["other seed"].state == "warning"


def test_workers_whose_gradients_are_not_averaged_are_noticed(check):
    alone = (
        'model = session.prepare(model, channels_last=config["channels_last"])',
        "session.prepare(model)",
    )
    result = check("not_averaged", alone)["2 workers"]
    assert (result.state, result.message) == (
        "error",
        "their weights differ after an epoch: train the model that session.prepare returns",
    )


def test_a_setting_that_the_loop_does_not_read_is_refused(check):
    with pytest.raises(UserError, match="learning_rate"):
        check("unknown_setting", learning_rate=1)


def test_the_command_names_the_trainers_that_exist():
    done = subprocess.run(
        [sys.executable, "-m", "toprung", "check", "trainers.convent"], cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean trainers.convnet?" in done.stderr


def test_a_worker_that_fails_is_named_with_its_error(check):
    first_only = (
        "    model.train()\n",
        "    model.train()\n    assert split.rank == 0, 'no second worker'\n",
    )
    result = check("fails_on_rank_1", first_only)["2 workers"]
    assert (result.state, result.message) == ("error", "worker 1: AssertionError: no second worker")
