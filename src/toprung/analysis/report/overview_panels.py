"""What is said without a plot: the best trials, what failed and why, what the sweep was made of."""

from __future__ import annotations

from collections import Counter

from toprung.analysis.comparison import Interval
from toprung.analysis.confirmation import read_confirmation
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Panel, Table, end_label, format_number
from toprung.records.catalog import list_confirmations
from toprung.records.lineage import Lineage
from toprung.records.ranking import format_config

ROWS_SHOWN = 10


def result(data: ReportData) -> Panel:
    """The ten best, and the default beside them."""
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
            f"The default configuration, trial {default.number}, reached {format_number(default.value)} "
            f"({winner.value - default.value:+.4f} for the winner), each with one seed."
        )
    if len(data.scored) > 1:
        text.append(f"The best value is the luckiest of {len(data.scored)}: expect a little less on new images.")
    shown = [(str(position), trial) for position, trial in enumerate(data.leaders[:ROWS_SHOWN], start=1)]
    if default and default not in [trial for _, trial in shown]:
        shown.append(("default", default))
    rows = [
        [
            position,
            str(trial.number),
            format_number(trial.value),
            str(trial.epoch),
            end_label(trial),
            format_config(trial.config),
        ]
        for position, trial in shown
    ]
    columns = ["rank", "trial", metric, "epoch", "ended", "configuration"]
    return Panel("result", "Result", text, tables=[Table("The best trials", columns, rows, is_open=True)])


def confirmed(data: ReportData) -> Panel:
    """The leaders and the default on fresh seeds, and how often the test split was opened."""
    if data.sweep.experiments:
        text = [f"A controlled experiment has its seeds already. Type: toprung compare {data.sweep_dir.sweep_id}"]
        return Panel("confirmation", "Confirmation", text)
    ended_well = [sweep_dir for sweep_dir in list_confirmations(data.sweep_dir) if sweep_dir.is_finished]
    if not ended_well:
        text = [f"Not confirmed yet. Type: toprung confirm {data.sweep_dir.sweep_id}"]
        return Panel("confirmation", "Confirmation", text)
    judgement = read_confirmation(data.sweep_dir, ended_well[0])
    text = [judgement.verdict]
    if judgement.simplest is not None and judgement.simplest != judgement.winner:
        text.append(f"The simplest that is as good: {judgement.simplest}.")
    if data.sweep_dir.test_log.is_file():
        count = sum('"who"' in line for line in data.sweep_dir.test_log.read_text(encoding="utf-8").splitlines())
        text.append(f"The test split was opened {'once' if count == 1 else f'{count} times'}.")
    metric = f"{data.sweep.metric}, fresh seeds"
    columns = ["configuration", metric, "beyond the default", "in the sweep", "shrunk", "seeds"]
    rows = [
        [
            config.name,
            _interval(config.mean),
            _interval(config.beyond_default),
            format_number(config.in_sweep),
            format_number(config.shrunken_value),
            f"{len(config.values)} of {judgement.num_seeds}",
        ]
        for config in judgement.configurations
    ]
    caption = f"{ended_well[0].sweep_id}: means, 95 % intervals; those beyond the default hold for all leaders together"
    return Panel("confirmation", "Confirmation", text, tables=[Table(caption, columns, rows, is_open=True)])


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return format_number(interval.mean)
    return f"{format_number(interval.mean)} ({format_number(interval.low)} to {format_number(interval.high)})"


def headline(data: ReportData) -> str:
    """The sweep in one sentence."""
    counts = Counter(trial.status for trial in data.whole)
    outcome = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    winner, status = data.winner, data.status.get("status")
    best = (
        f" Best {data.sweep.metric} {format_number(winner.value)}: trial {winner.number}, epoch {winner.epoch}."
        if winner
        else ""
    )
    still = " The sweep still runs." if data.sweep_dir.has_live_driver() else ""
    reason = f" It {status}: {data.status['reason']}." if data.status.get("reason") else ""
    return f"{len(data.whole)} trials ({outcome}), {data.num_epochs} epochs.{best}{reason}{still}"


def failures(data: ReportData) -> Panel:
    """Every trial that failed or was killed, with its cause."""
    bad = [trial for trial in data.trials if trial.status in ("failed", "interrupted")]
    if not bad:
        return Panel("failures", "Failures", ["No trial failed."])
    causes = Counter(trial.cause or "no cause recorded" for trial in bad)
    text = [
        f"{len(bad)} of {len(data.trials)} trials. {count} times: {cause}" for cause, count in causes.most_common(1)
    ]
    rows = [
        [
            str(trial.number),
            trial.status,
            str(trial.epochs),
            trial.cause or "no cause recorded",
            format_config(trial.config),
        ]
        for trial in bad
    ]
    columns = ["trial", "status", "epochs", "cause", "configuration"]
    return Panel("failures", "Failures", text, tables=[Table("Each of them", columns, rows, is_open=True)])


def _in_dvc(lineage: Lineage) -> str:
    """What DVC calls the data: `raw 1f3a.dir, prepared 3eff.dir, remote "store"`."""
    hashes = {"raw": lineage.dvc_raw_md5, "prepared": lineage.dvc_prepared_md5}
    parts = [f"{what} {md5}" for what, md5 in hashes.items() if md5]
    if lineage.dvc_remote:
        parts.append(f'remote "{lineage.dvc_remote}"')
    return ", ".join(parts) or "not tracked"


def lineage(data: ReportData) -> Panel:
    """Data, split, commit, lock file, seeds and versions."""
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
        seeds, asha = " ".join(map(str, sweep.seeds)), "none: every trial has the full budget"
    rows = [
        ["sweep", data.sweep_dir.sweep_id],
        ["trainer", sweep.trainer],
        ["experiment", sweep.plan_text] if sweep.experiments else ["search space", str(sweep.space)],
        ["data", f"{lineage.data_name}, fingerprint {lineage.data_fingerprint}"],
        ["split", f"fingerprint {lineage.split_fingerprint}"],
        ["data in DVC", _in_dvc(lineage)],
        ["commit", commit],
        ["lock file", lineage.lock_hash or "none"],
        ["seeds", f"training {seeds}, split {sweep.data.split_seed}"],
        ["ASHA", asha],
        ["Python", f"{lineage.python} on {lineage.platform}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items()))],
    ]
    return Panel("lineage", "Lineage", tables=[Table("What it was made of", ["", ""], rows, is_open=True)])
