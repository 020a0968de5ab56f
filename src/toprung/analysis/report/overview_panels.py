"""Panels without plots: the best trials, the confirmation, the failures and the lineage."""

from __future__ import annotations

from collections import Counter

from toprung.analysis.baseline import find_baseline
from toprung.analysis.comparison import Interval
from toprung.analysis.confirmation import read_confirmation
from toprung.analysis.confirmation_summary import CONFIRMATION_COLUMNS, CONFIRMATION_INTERVALS, confirmation_notes
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Panel, Table, end_label, format_number
from toprung.errors import pluralize
from toprung.records.catalog import newest_confirmation
from toprung.records.lineage import Lineage
from toprung.records.ranking import format_config

ROWS_SHOWN = 10


def result(data: ReportData) -> Panel:
    """Build the panel of the ten best trials and the default configuration."""
    metric, winner = data.sweep.metric, data.winner
    default = next((trial for trial in data.leaders if trial.is_default), None)
    text = []
    if (
        winner
        and default
        and default.number != winner.number
        and winner.value is not None
        and default.value is not None
    ):
        text.append(
            f"The default configuration, trial {default.number}, reached {format_number(default.value)}; "
            f"the winner, trial {winner.number}, reached {format_number(winner.value)} "
            f"({winner.value - default.value:+.4f}). Each was trained with one seed."
        )
    if winner and (baseline := find_baseline(data.sweep_dir, data.sweep)):
        text.append(
            f"Baseline: {format_number(baseline.value)}, by {baseline.trainer} with the same weights and split "
            f"({baseline.sweep_id})."
        )
    if len(data.scored) > 1:
        text.append(f"The best of {len(data.scored)} values is partly luck: expect a slightly worse one on new images.")
    ranked = [(str(position), trial) for position, trial in enumerate(data.leaders[:ROWS_SHOWN], start=1)]
    if default and default not in [trial for _, trial in ranked]:
        ranked.append(("default", default))
    rows = [
        [
            position,
            str(trial.number),
            format_number(trial.value),
            str(trial.epoch),
            end_label(trial),
            format_config(trial.config, without=data.sweep.constants),
        ]
        for position, trial in ranked
    ]
    columns = ["rank", "trial", metric, "epoch", "outcome", "configuration"]
    return Panel("result", "Result", text, tables=[Table("The best trials", columns, rows, is_open=True)])


def confirmed(data: ReportData) -> Panel:
    """Build the panel of the leaders and the default on fresh seeds or folds, with the test-split openings."""
    if data.sweep.experiments:
        reason = "Not needed: a controlled experiment already trains each configuration with several seeds."
        return Panel(
            "confirmation",
            "Confirmation",
            [f"{reason} To compare the configurations, type: toprung compare {data.sweep_dir.sweep_id}"],
        )
    confirming_dir = newest_confirmation(data.sweep_dir)
    if confirming_dir is None:
        command = f"toprung confirm {data.sweep_dir.sweep_id}"
        text = [f"Not confirmed yet. To train the best configurations again with fresh seeds, type: {command}"]
        return Panel("confirmation", "Confirmation", text)
    confirmation = read_confirmation(data.sweep_dir, confirming_dir)
    text = [confirmation.verdict]
    if confirmation.simplest is not None and confirmation.simplest != confirmation.winner:
        text.append(f"The simplest configuration that is not significantly worse: {confirmation.simplest}.")
    if data.sweep_dir.test_log.is_file():
        count = sum('"who"' in line for line in data.sweep_dir.test_log.read_text(encoding="utf-8").splitlines())
        text.append(f"The test split was opened {'once' if count == 1 else f'{count} times'}.")
    text += confirmation_notes(confirmation)
    unit = f"{confirmation.unit}s"
    columns = ["configuration", f"{data.sweep.metric} on {confirmation.sample}", *CONFIRMATION_COLUMNS, unit]
    rows = [
        [
            config.name,
            _interval(config.mean),
            _interval(config.beyond_default),
            format_number(config.in_sweep),
            format_number(config.shrunken_value),
            confirmation.progress(config),
        ]
        for config in confirmation.configurations
    ]
    caption = f"Means over the {unit} of {confirming_dir.sweep_id}, with {CONFIRMATION_INTERVALS}"
    return Panel("confirmation", "Confirmation", text, tables=[Table(caption, columns, rows, is_open=True)])


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return format_number(interval.mean)
    return f"{format_number(interval.mean)} ({format_number(interval.low)} to {format_number(interval.high)})"


def headline(data: ReportData) -> str:
    """Summarise the sweep in a few sentences."""
    counts = Counter(trial.status for trial in data.distinct_trials)
    outcome = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    winner, status = data.winner, data.status.get("status")
    best = (
        f" Best {data.sweep.metric}: {format_number(winner.value)} (trial {winner.number}, epoch {winner.epoch})."
        if winner
        else ""
    )
    running = " The sweep is still running." if data.sweep_dir.has_live_driver() else ""
    reason = f" Sweep {status}: {data.status['reason']}." if data.status.get("reason") else ""
    trials, epochs = pluralize(len(data.distinct_trials), "trial"), pluralize(data.num_epochs, "epoch")
    return f"{trials} ({outcome}), {epochs}.{best}{reason}{running}"


def failures(data: ReportData) -> Panel:
    """Build the panel of trials that failed or were interrupted, with their causes."""
    lost = [trial for trial in data.trials if trial.status in ("failed", "interrupted")]
    if not lost:
        return Panel("failures", "Failures", ["No trial failed."])
    causes = Counter(trial.cause or "no cause recorded" for trial in lost)
    ((cause, count),) = causes.most_common(1)
    text = [
        f"Failed or interrupted: {len(lost)} of {pluralize(len(data.trials), 'trial')}.",
        f"Most frequent cause ({pluralize(count, 'trial')}): {cause}",
    ]
    rows = [
        [
            str(trial.number),
            trial.status,
            str(trial.epochs),
            trial.cause or "no cause recorded",
            format_config(trial.config, without=data.sweep.constants),
        ]
        for trial in lost
    ]
    columns = ["trial", "status", "epochs", "cause", "configuration"]
    return Panel(
        "failures", "Failures", text, tables=[Table("Failed and interrupted trials", columns, rows, is_open=True)]
    )


def _in_dvc(lineage: Lineage) -> str:
    """Return DVC's hashes of the data: `raw 1f3a.dir, prepared 3eff.dir, remote "store"`."""
    hashes = {"raw": lineage.dvc_raw_md5, "prepared": lineage.dvc_prepared_md5}
    parts = [f"{kind} {md5}" for kind, md5 in hashes.items() if md5]
    if lineage.dvc_remote:
        parts.append(f'remote "{lineage.dvc_remote}"')
    return ", ".join(parts) or "not tracked"


def lineage(data: ReportData) -> Panel:
    """Build the panel of data, split, commit, lock file, seeds and versions."""
    lineage, sweep = data.lineage, data.sweep
    if lineage is None:
        return Panel("lineage", "Lineage", ["No lineage was recorded."])
    commit = (
        f"{lineage.commit}{' with uncommitted changes' if lineage.dirty else ''}"
        if lineage.commit
        else "no git checkout"
    )
    seeds = f"{lineage.seed}, search {lineage.search_seed}"
    asha = f"rungs {', '.join(map(str, sweep.rungs))}, reduction factor {sweep.asha.reduction_factor}"
    if sweep.experiments:
        seeds, asha = " ".join(map(str, sweep.seeds)), "not used: every trial has the full budget"
    split = "" if sweep.data.num_folds is None else f"{sweep.data.num_folds} folds, "
    rows = [
        ["sweep", data.sweep_dir.sweep_id],
        ["trainer", sweep.trainer],
        ["experiment", sweep.plan_text] if sweep.experiments else ["search space", str(sweep.space)],
        ["data", f"{lineage.data_name}, fingerprint {lineage.data_fingerprint}"],
        ["split", f"{split}fingerprint {lineage.split_fingerprint}"],
        ["data in DVC", _in_dvc(lineage)],
        *(["pretrained weights", f"{name}, sha256 {sha256}"] for name, sha256 in lineage.weights.items()),
        ["commit", commit],
        ["lock file", lineage.lock_hash or "none"],
        ["seeds", f"training {seeds}, split {sweep.data.split_seed}"],
        ["ASHA", asha],
        ["Python", f"{lineage.python} on {lineage.platform}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items()))],
    ]
    return Panel(
        "lineage", "Lineage", tables=[Table("Data, code and versions of this sweep", ["", ""], rows, is_open=True)]
    )
