"""What is said without a plot: the best trials, what failed and why, what the sweep was made of."""

from __future__ import annotations

from collections import Counter

from toprung.analysis.comparison import Interval
from toprung.analysis.confirmation import judged
from toprung.analysis.ranking import describe
from toprung.analysis.report.findings import Findings
from toprung.analysis.report.panel import Panel, Table, ended, number
from toprung.catalog import confirmations
from toprung.lineage import Lineage

ROWS_SHOWN = 10


def result(found: Findings) -> Panel:
    """The ten best, and the default beside them."""
    metric, winner = found.sweep.metric, found.winner
    default = next((trial for trial in found.leaders if trial.is_default), None)
    text = []
    if (
        winner
        and default
        and default.number != winner.number
        and winner.value is not None
        and default.value is not None
    ):
        text.append(
            f"The default configuration, trial {default.number}, reached {number(default.value)} "
            f"({winner.value - default.value:+.4f} for the winner), each with one seed."
        )
    if len(found.scored) > 1:
        text.append(f"The best value is the luckiest of {len(found.scored)}: expect a little less on new images.")
    shown = [(str(place), trial) for place, trial in enumerate(found.leaders[:ROWS_SHOWN], start=1)]
    if default and default not in [trial for _, trial in shown]:
        shown.append(("default", default))
    rows = [
        [place, str(trial.number), number(trial.value), str(trial.epoch), ended(trial), describe(trial.config)]
        for place, trial in shown
    ]
    columns = ["rank", "trial", metric, "epoch", "ended", "configuration"]
    return Panel("result", "Result", text, tables=[Table("The best trials", columns, rows, is_open=True)])


def confirmed(found: Findings) -> Panel:
    """The leaders and the default on fresh seeds, and how often the test split was opened."""
    if found.sweep.experiments:
        text = [f"A controlled experiment has its seeds already. Type: toprung compare {found.directory.sweep_id}"]
        return Panel("confirmation", "Confirmation", text)
    ended_well = [each for each in confirmations(found.directory) if each.is_finished]
    if not ended_well:
        text = [f"Not confirmed yet. Type: toprung confirm {found.directory.sweep_id}"]
        return Panel("confirmation", "Confirmation", text)
    judgement = judged(found.directory, ended_well[0])
    text = [judgement.verdict]
    if judgement.simplest is not None and judgement.simplest != judgement.winner:
        text.append(f"The simplest that is as good: {judgement.simplest}.")
    if found.directory.test_log.is_file():
        count = sum('"who"' in line for line in found.directory.test_log.read_text(encoding="utf-8").splitlines())
        text.append(f"The test split was opened {'once' if count == 1 else f'{count} times'}.")
    metric = f"{found.sweep.metric}, fresh seeds"
    columns = ["configuration", metric, "beyond the default", "in the sweep", "shrunk", "seeds"]
    rows = [
        [
            each.name,
            _interval(each.mean),
            _interval(each.beyond_default),
            number(each.in_sweep),
            number(each.shrunk),
            f"{len(each.values)} of {judgement.num_seeds}",
        ]
        for each in judgement.configurations
    ]
    caption = f"{ended_well[0].sweep_id}: means, 95 % intervals; those beyond the default hold for all leaders together"
    return Panel("confirmation", "Confirmation", text, tables=[Table(caption, columns, rows, is_open=True)])


def _interval(found: Interval | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return number(found.mean)
    return f"{number(found.mean)} ({number(found.low)} to {number(found.high)})"


def headline(found: Findings) -> str:
    """The sweep in one sentence."""
    counts = Counter(trial.status for trial in found.whole)
    said = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    winner, status = found.winner, found.status.get("status")
    best = (
        f" Best {found.sweep.metric} {number(winner.value)}: trial {winner.number}, epoch {winner.epoch}."
        if winner
        else ""
    )
    still = " The sweep still runs." if found.directory.is_driven() else ""
    reason = f" It {status}: {found.status['reason']}." if found.status.get("reason") else ""
    return f"{len(found.whole)} trials ({said}), {found.num_epochs} epochs.{best}{reason}{still}"


def failures(found: Findings) -> Panel:
    """Every trial that failed or was killed, with its cause."""
    bad = [trial for trial in found.trials if trial.status in ("failed", "killed")]
    if not bad:
        return Panel("failures", "Failures", ["No trial failed."])
    causes = Counter(trial.cause or "no cause recorded" for trial in bad)
    text = [
        f"{len(bad)} of {len(found.trials)} trials. {count} times: {cause}" for cause, count in causes.most_common(1)
    ]
    rows = [
        [str(trial.number), trial.status, str(trial.epochs), trial.cause or "no cause recorded", describe(trial.config)]
        for trial in bad
    ]
    columns = ["trial", "status", "epochs", "cause", "configuration"]
    return Panel("failures", "Failures", text, tables=[Table("Each of them", columns, rows, is_open=True)])


def _in_dvc(made: Lineage) -> str:
    """What DVC calls the data: `raw 1f3a.dir, prepared 3eff.dir, remote "store"`."""
    named = {"raw": made.dvc_raw_md5, "prepared": made.dvc_prepared_md5}
    parts = [f"{what} {md5}" for what, md5 in named.items() if md5]
    if made.dvc_remote:
        parts.append(f'remote "{made.dvc_remote}"')
    return ", ".join(parts) or "not tracked"


def lineage(found: Findings) -> Panel:
    """Data, split, commit, lock file, seeds and versions."""
    made, sweep = found.lineage, found.sweep
    if made is None:
        return Panel("lineage", "Lineage", ["No lineage was recorded."])
    commit = f"{made.commit}{' with uncommitted changes' if made.dirty else ''}" if made.commit else "no git checkout"
    seeds = f"{made.seed}, search {made.search_seed}"
    asha = f"rungs {', '.join(map(str, sweep.rungs))}, reduction factor {sweep.asha.reduction_factor}"
    if sweep.experiments:
        seeds, asha = " ".join(map(str, sweep.seeds)), "none: every trial has the full budget"
    rows = [
        ["sweep", found.directory.sweep_id],
        ["trainer", sweep.trainer],
        ["experiment", sweep.plan_text] if sweep.experiments else ["search space", str(sweep.space)],
        ["data", f"{made.data_name}, fingerprint {made.data_fingerprint}"],
        ["split", f"fingerprint {made.split_fingerprint}"],
        ["data in DVC", _in_dvc(made)],
        ["commit", commit],
        ["lock file", made.lock_hash or "none"],
        ["seeds", f"training {seeds}, split {sweep.data.split_seed}"],
        ["ASHA", asha],
        ["Python", f"{made.python} on {made.platform}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in sorted(made.versions.items()))],
    ]
    return Panel("lineage", "Lineage", tables=[Table("What it was made of", ["", ""], rows, is_open=True)])
