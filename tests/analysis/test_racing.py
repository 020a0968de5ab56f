"""Leaders that a cross-validation drops before their last fold."""

from toprung.analysis.racing import dropped_leaders
from toprung.analysis.seeds import representative
from toprung.records.trial_record import End, TrialRecord
from toprung.spec import Data, Experiment, Sweep

NAMES = ("trial 3", "trial 5", "default")
SEEDS = (1, 2, 3, 4, 5)
GOOD = [0.90, 0.80, 0.85, 0.88, 0.83]
CLOSE = [0.89, 0.81, 0.84, 0.88, 0.84]
BAD = [0.501, 0.402, 0.450, 0.479, 0.431]


def _sweep(*, num_folds=5, **fields):
    return Sweep(
        name="some",
        trainer="trainers.convnet",
        experiments=tuple(Experiment(name=name) for name in NAMES),
        seeds=SEEDS,
        data=Data(num_folds=num_folds),
        **fields,
    )


def _trials(values, *, num_folds=5, running=()):
    """Return the trials of the first folds, fold by fold; None is a failed trial."""
    trials = []
    for index, seed in enumerate(SEEDS[:num_folds]):
        for name in NAMES:
            if index >= len(values[name]):
                continue
            value = values[name][index]
            status = "running" if (name, seed) in running else "failed" if value is None else "finished"
            end = None if status == "running" else End(status)
            config = {"experiment": name, "seed": seed}
            trials.append(TrialRecord(len(trials), f"t{len(trials)}", status, config, {}, value, 1, end=end))
    return trials


def _values(**values):
    return {"trial 3": GOOD, "trial 5": BAD, "default": CLOSE} | {
        name.replace("_", " "): row for name, row in values.items()
    }


def test_a_leader_that_is_far_behind_is_dropped_after_three_folds():
    assert dropped_leaders(_trials(_values(), num_folds=2), _sweep()) == {}
    assert dropped_leaders(_trials(_values(), num_folds=3), _sweep()) == {"trial 5": 3}
    worse = {name: [1 - value for value in row] for name, row in _values().items()}
    assert dropped_leaders(_trials(worse, num_folds=3), _sweep(metric="val/loss")) == {"trial 5": 3}


def test_a_close_leader_and_the_default_are_never_dropped():
    assert dropped_leaders(_trials(_values(trial_5=CLOSE, default=BAD)), _sweep()) == {}


def test_nothing_is_decided_before_every_configuration_has_ended_the_fold():
    trials = _trials(_values(), num_folds=3, running={("default", 3)})
    assert dropped_leaders(trials, _sweep()) == {}


def test_a_failed_trial_ends_its_fold_but_leaves_too_few_pairs_for_a_decision():
    trials = _trials(_values(trial_5=[BAD[0], None, BAD[2], BAD[3]]), num_folds=3)
    assert dropped_leaders(trials, _sweep()) == {}
    trials = _trials(_values(trial_5=[BAD[0], None, BAD[2], BAD[3]]), num_folds=4)
    assert dropped_leaders(trials, _sweep()) == {"trial 5": 4}


def test_later_folds_do_not_change_a_decision():
    """The dropped leader has no further values, and the others' may bring another one to the top."""
    trials = _trials(_values(trial_5=BAD[:3], default=[*CLOSE[:3], 0.99, 0.99]))
    assert dropped_leaders(trials, _sweep()) == {"trial 5": 3}


def test_nothing_is_dropped_without_folds():
    assert dropped_leaders(_trials(_values()), _sweep(num_folds=None)) == {}


def test_neither_an_excluded_configuration_nor_the_best_mean_of_a_few_easy_folds_represents_the_winner():
    values = _values(trial_3=[0.9, 0.9, 0.9, 0.5, 0.5], trial_5=[0.85, 0.85, 0.85], default=[0.8] * 5)
    trials = _trials(values)
    assert representative(trials, mode="max").config["experiment"] == "default"
    assert representative(trials, mode="max", exclude={"default": 3}).config["experiment"] == "trial 3"
