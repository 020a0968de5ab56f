"""Importance: the hyperparameter that determines the value ranks first, and stopped trials do not count."""

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
        is_complete = state == "COMPLETE"
        study.tell(trial, value(params) if is_complete else None, state=optuna.trial.TrialState[state])
    return study


def test_the_decisive_hyperparameter_ranks_first_with_both_evaluators():
    result = importances(_study(40, lambda params: params["width"] / 64).trials, mode="max")
    for evaluator in ("fANOVA", "PED-ANOVA"):
        shares = [importance for importance in result.shares if importance.evaluator == evaluator]
        assert shares[0].name == "width"
        assert shares[0].low > max(importance.high for importance in shares[1:])
        assert all(0 <= importance.low <= importance.high <= 1 for importance in shares)
    assert (result.num_finished, result.conditional, result.too_few) == (40, ["shift"], None)


def test_the_intervals_of_two_irrelevant_hyperparameters_overlap():
    noise = iter(range(1000))
    result = importances(_study(30, lambda params: (next(noise) * 7919 % 101) / 101).trials, mode="max")
    shares = [
        importance
        for importance in result.shares
        if importance.evaluator == "fANOVA" and importance.name in ("lr", "width")
    ]
    assert shares[0].low < shares[1].high


def test_too_few_finished_trials_give_a_reason_and_no_shares():
    study = _study(MIN_FINISHED - 1, lambda params: params["width"])
    _study(50, lambda params: 0, state="PRUNED", study=study)
    result = importances(study.trials, mode="max")
    assert result.shares == []
    assert f"only {MIN_FINISHED - 1} trials finished, and at least {MIN_FINISHED} are needed" in (result.too_few or "")


def test_trials_with_equal_values_give_a_reason_and_no_shares():
    assert "have the same value" in (importances(_study(20, lambda params: 1.0).trials, mode="max").too_few or "")


def test_resamples_in_which_all_values_are_equal_are_left_out():
    values = iter([0.0, 0.5] + [1.0] * 13)
    result = importances(_study(15, lambda params: next(values)).trials, mode="max")
    assert result.shares
    assert all(0 <= importance.low <= importance.high <= 1 for importance in result.shares)


def test_a_share_is_within_its_interval_even_if_only_a_few_resamples_differ():
    distributions = {
        "lr": optuna.distributions.FloatDistribution(0, 1),
        "rare": optuna.distributions.CategoricalDistribution(["usual", "rare"]),
    }
    trials = [
        optuna.trial.create_trial(
            params={"lr": number / 1500, "rare": "usual" if number else "rare"},
            distributions=distributions,
            value=number % 7 if number else 100.0,
        )
        for number in range(1500)
    ]
    result = importances(trials, mode="max", seed=2)
    assert all(importance.low <= importance.share <= importance.high for importance in result.shares)


def test_the_same_seed_gives_the_same_shares():
    trials = _study(20, lambda params: params["lr"]).trials
    assert importances(trials, mode="max") == importances(trials, mode="max")
