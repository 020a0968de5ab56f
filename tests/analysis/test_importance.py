"""Importance: the planted hyperparameter comes first, and stopped trials have no say."""

import optuna

from toprung.analysis.importance import MIN_FINISHED, importances


def _study(count, value, *, state="COMPLETE", study=None):
    study = study or optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        params = {
            "lr": trial.suggest_float("lr", 1e-4, 1, log=True),
            "width": trial.suggest_int("width", 8, 64),
            "augment": trial.suggest_categorical("augment", ["none", "light"]),
        }
        if params["augment"] == "light":
            trial.suggest_float("shift", 0, 1)
        done = state == "COMPLETE"
        study.tell(trial, value(params) if done else None, state=optuna.trial.TrialState[state])
    return study


def test_the_hyperparameter_that_decides_comes_first_under_both_evaluators():
    found = importances(_study(40, lambda params: params["width"] / 64))
    for evaluator in ("fANOVA", "PED-ANOVA"):
        shares = [importance for importance in found.shares if importance.evaluator == evaluator]
        assert shares[0].name == "width"
        assert shares[0].low > max(importance.high for importance in shares[1:])
        assert all(0 <= importance.low <= importance.high <= 1 for importance in shares)
    assert (found.num_finished, found.conditional, found.too_few) == (40, ["shift"], None)


def test_where_neither_of_two_matters_their_intervals_overlap():
    noise = iter(range(1000))
    found = importances(_study(30, lambda params: (next(noise) * 7919 % 101) / 101))
    shares = [
        importance
        for importance in found.shares
        if importance.evaluator == "fANOVA" and importance.name in ("lr", "width")
    ]
    assert shares[0].low < shares[1].high


def test_below_the_stated_number_of_finished_trials_there_is_a_sentence_and_no_figure():
    study = _study(MIN_FINISHED - 1, lambda params: params["width"])
    _study(50, lambda params: 0, state="PRUNED", study=study)
    found = importances(study)
    assert found.shares == []
    assert f"{MIN_FINISHED - 1}, and importance is given from {MIN_FINISHED} on" in (found.too_few or "")


def test_trials_that_all_ended_alike_have_nothing_to_tell():
    assert "ended alike" in (importances(_study(20, lambda params: 1.0)).too_few or "")


def test_the_same_seed_gives_the_same_figures():
    study = _study(20, lambda params: params["lr"])
    assert importances(study) == importances(study)
