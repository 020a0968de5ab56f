"""`toprung compare A B`: read sweeps from their directories, compare them, and warn if they are not comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toprung.analysis.comparison.answers import Answer, list_answers
from toprung.analysis.comparison.groups import (
    Comparison,
    Groups,
    compare,
    configuration_of,
    group_by_configuration,
    group_by_hyperparameter,
)
from toprung.analysis.curves import own_epochs, without_continued
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.ranking import format_config, rank_trials
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep

# The lineage that sweeps must share for their values to be comparable, and the warning if they do not.
SHARED_LINEAGE = {
    "data_fingerprint": "The sweeps used different data",
    "split_fingerprint": "The sweeps used different validation images",
}


@dataclass(frozen=True)
class SweepLine:
    """The summary of one sweep in a table row."""

    sweep_id: str
    num_trials: int
    num_finished: int
    num_failed: int
    num_epochs: int
    trial_seconds: float
    best_value: float | None
    best_trial: int | None
    best_config: str


@dataclass(frozen=True)
class SweepComparison:
    """Several sweeps compared, with warnings about what makes their values hard to compare."""

    metric: str
    sweeps: list[SweepLine]
    warnings: list[str]
    comparison: Comparison
    answers: list[Answer]


def compare_sweeps(sweep_dirs: Sequence[SweepDirectory], *, by: str = "configuration") -> SweepComparison:
    """Compare the trials of one or several sweeps.

    Args:
        sweep_dirs: the directories of the sweeps.
        by: how trials are grouped: "configuration", "sweep", or a hyperparameter's name.

    Raises:
        UserError: a sweep cannot be read, their metrics differ, or no trial has the hyperparameter.
    """
    specs = [sweep_dir.spec() for sweep_dir in sweep_dirs]
    if len({(spec.metric, spec.mode) for spec in specs}) > 1:
        descriptions = ", ".join(f"{d.sweep_id}: {s.metric} ({s.mode})" for d, s in zip(sweep_dirs, specs, strict=True))
        raise UserError(f"These sweeps have different metrics and cannot be compared: {descriptions}.")
    trials = [_by_split(ledger.read(d), spec) for d, spec in zip(sweep_dirs, specs, strict=True)]
    comparison = compare(
        _groups(sweep_dirs, specs, trials, by),
        mode=specs[0].mode,
        test_train_ratio=max(spec.test_train_ratio for spec in specs),
    )
    lines = [_line(d, t, spec) for d, t, spec in zip(sweep_dirs, trials, specs, strict=True)]
    warnings = [
        *_difference_warnings(sweep_dirs, specs),
        *_budget_warnings(comparison),
        *_single_value_warnings(comparison),
        *_mixed_group_warnings(comparison),
    ]
    return SweepComparison(specs[0].metric, lines, warnings, comparison, list_answers(comparison))


def _by_split(trials: list[TrialRecord], spec: Sweep) -> list[TrialRecord]:
    """In a cross-validation, replace seeds by the splits that they validate on, which other sweeps share."""
    if spec.data.num_folds is None:
        return trials
    return [
        replace(trial, config={**trial.config, "seed": spec.split_index(int(trial.config["seed"]))})
        if "seed" in trial.config
        else trial
        for trial in trials
    ]


def _groups(
    sweep_dirs: Sequence[SweepDirectory], specs: Sequence[Sweep], trials: Sequence[list[TrialRecord]], by: str
) -> Groups:
    all_trials = [trial for sweep_trials in trials for trial in sweep_trials]
    if by == "sweep":
        return {d.sweep_id: [*without_continued(group)] for d, group in zip(sweep_dirs, trials, strict=True)}
    if by == "configuration":
        return _by_configuration(sweep_dirs, specs, trials)
    known = {name for trial in all_trials for name in trial.config}
    if by not in known:
        raise UserError(f'No trial has a hyperparameter "{by}". Hyperparameters: {", ".join(sorted(known)) or "none"}.')
    return group_by_hyperparameter(all_trials, by)


def _by_configuration(
    sweep_dirs: Sequence[SweepDirectory], specs: Sequence[Sweep], trials: Sequence[list[TrialRecord]]
) -> Groups:
    """Group trials by configuration; a name with two meanings, such as "default", is followed by the sweep."""
    by_sweep = [group_by_configuration(sweep_trials) for sweep_trials in trials]
    meanings: dict[str, set[str]] = {}
    for spec, named in zip(specs, by_sweep, strict=True):
        for name, group in named.items():
            config = sorted(configuration_of(group[0]).items())
            meanings.setdefault(name, set()).add(f"{spec.trainer} {config}")
    groups: dict[str, list[TrialRecord]] = {}
    for sweep_dir, named in zip(sweep_dirs, by_sweep, strict=True):
        for name, group in named.items():
            unique = name if len(meanings[name]) == 1 else f"{name} of {sweep_dir.sweep_id}"
            groups.setdefault(unique, []).extend(group)
    return groups


def _line(sweep_dir: SweepDirectory, trials: Sequence[TrialRecord], spec: Sweep) -> SweepLine:
    ranking = rank_trials(trials, mode=spec.mode)
    best = ranking[0] if ranking else None
    distinct = [*without_continued(trials)]
    return SweepLine(
        sweep_id=sweep_dir.sweep_id,
        num_trials=len(distinct),
        num_finished=sum(trial.status == "finished" for trial in distinct),
        num_failed=sum(trial.status == "failed" for trial in trials),
        num_epochs=sum(map(own_epochs, trials)),
        trial_seconds=sum(trial.seconds for trial in trials),
        best_value=best.value if best else None,
        best_trial=best.number if best else None,
        best_config=format_config(best.config) if best else "",
    )


def _difference_warnings(sweep_dirs: Sequence[SweepDirectory], specs: Sequence[Sweep]) -> list[str]:
    # Cross-validations that differ only in their number of repeats share their first folds, which are compared.
    shares_folds = specs[0].data.num_folds is not None and all(spec.data == specs[0].data for spec in specs)
    lineages = {}
    for sweep_dir in sweep_dirs:
        if sweep_dir.lineage_file.is_file():
            lineages[sweep_dir.sweep_id] = read_lineage(sweep_dir)
    warnings = []
    if missing := [sweep_dir.sweep_id for sweep_dir in sweep_dirs if sweep_dir.sweep_id not in lineages]:
        warnings.append(
            f"No lineage is recorded for {', '.join(missing)}, so it is unknown whether the data were the same."
        )
    for field, message in SHARED_LINEAGE.items():
        fingerprints = {sweep_id: str(getattr(lineage, field))[:12] for sweep_id, lineage in lineages.items()}
        if len(set(fingerprints.values())) > 1 and not (field == "split_fingerprint" and shares_folds):
            descriptions = ", ".join(f"{sweep_id} {fingerprint}" for sweep_id, fingerprint in fingerprints.items())
            warnings.append(f"{message} ({descriptions}), so their values cannot be compared.")
            break
    return warnings


def _budget_warnings(comparison: Comparison) -> list[str]:
    budgets = sorted({budget for group in comparison.groups for budget in group.budgets})
    if len(budgets) < 2:
        return []
    epochs = ", ".join(map(str, budgets))
    return [f"The full budgets differ ({epochs} epochs), and a longer budget alone can give a better value."]


def _single_value_warnings(comparison: Comparison) -> list[str]:
    measured = [group for group in comparison.groups if group.num_finished]
    if not measured or any(group.num_finished > 1 for group in measured):
        return []
    return ["Every group has a single trial, so the order may be luck and there are no confidence intervals."]


def _mixed_group_warnings(comparison: Comparison) -> list[str]:
    if all(group.is_controlled for group in comparison.groups):
        return []
    return [
        "The searcher chose the configurations in these groups, so other differences between them may be the cause."
    ]
