"""Panels on the audit of early stopping, and on time and cost."""

from __future__ import annotations

from toprung.analysis.audit import TOP_SHARE, Audit
from toprung.analysis.curves import own_epochs
from toprung.analysis.rank_correlation import MIN_TRIALS, Correlation
from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, end_label, format_number
from toprung.errors import pluralize
from toprung.records.trial_record import TrialRecord

TITLE = "Audit of early stopping"
MIN_TOP_TRIALS = 5  # that a statement about keeping all of them needs


def asha_audit(data: ReportData) -> Panel:
    """Build the panel that compares ASHA's decisions with how the trials ended."""
    audit, metric = data.audit, data.sweep.metric
    rungs, full = data.sweep.rungs[:-1], data.sweep.asha.max_epochs
    if not rungs:
        why = (
            "in a controlled experiment every trial has the full budget"
            if data.sweep.experiments
            else f"with a budget of {pluralize(full, 'epoch')} there is no earlier rung"
        )
        return Panel("asha-audit", TITLE, [f"No trial could be stopped early: {why}."])
    text = audit_sentences(audit)
    rows = [
        [
            str(rung_audit.rung),
            str(rung_audit.num_judged),
            str(rung_audit.num_stopped),
            *map(format_number, rung_audit.cutoffs or (None, None)),
            str(rung_audit.num_finished),
            _correlation(rung_audit.kendall),
            _correlation(rung_audit.spearman),
        ]
        for rung_audit in audit.rungs
    ]
    columns = ["rung", "judged", "stopped", "best stopped", "worst passed", "ran to the end", "Kendall", "Spearman"]
    tables = [Table("Decisions and rank correlations by rung", columns, rows, is_open=True)]
    if audit.first_rung_replays:
        tables.append(_replay_table(audit))
    full_curves = [trial for trial in data.finished if all(rung in trial.epochs_by_number for rung in rungs)]
    traces = [
        {
            "type": "scatter",
            "x": [trial.epochs_by_number[rung].metrics[metric] for trial in full_curves],
            "y": [trial.value for trial in full_curves],
            "customdata": [trial.number for trial in full_curves],
            "mode": "markers",
            "name": f"rung {rung}",
            "marker": {"color": style.PALETTE[index % 6], "symbol": style.SYMBOLS[index % 6], "size": 8},
            "hovertemplate": f"trial %{{customdata}}: %{{x:.4f}} at rung {rung}, best %{{y:.4f}}<extra></extra>",
        }
        for index, rung in enumerate(rungs)
    ]
    plot = style.plot(traces, xaxis=style.axis(f"{metric} at the rung"), yaxis=style.axis(f"best {metric}"))
    alt = f"Value at each rung against the best value, for {pluralize(len(full_curves), 'finished trial')}."
    return Panel("asha-audit", TITLE, text, [Figure("asha-audit", plot, alt)], tables)


def audit_sentences(audit: Audit) -> list[str]:
    """Return the findings of the audit as sentences."""
    trained = f"{pluralize(audit.epochs_spent, 'epoch')} {'was' if audit.epochs_spent == 1 else 'were'} trained"
    sentences = [f"{trained} instead of {audit.epochs_in_full}: early stopping saved {audit.epochs_saved:.0%}."]
    finished = max((rung_audit.num_finished for rung_audit in audit.rungs), default=0)
    if finished < MIN_TRIALS:
        sentences.append(
            f"No correlations: only {pluralize(finished, 'trial')} ran to the end, and at least {MIN_TRIALS} are "
            "needed."
        )
    elif audit.lost_top_trials is None:
        sentences.append(
            f"The correlations between the value at a rung and the best value are over the {finished} finished trials, "
            "which passed every rung; over all trials they would probably be higher."
        )
    else:
        sentences.append(
            f"The correlations between the value at a rung and the best value are over the {finished} trials that ran "
            "to the end; each audited trial is weighted by the number of trials that it represents."
        )
    if (lost := audit.lost_top_trials) is None:
        sentences.append(
            "No trial was audited, so it is unknown how many good trials early stopping has lost. To find out, set "
            "asha.audit_fraction=0.1 in the recipe: one in ten of the trials to be stopped then runs to the end."
        )
    else:
        sentences.append(
            f"Of {pluralize(lost.num_audited, 'audited trial')}, which ASHA would have stopped, {lost.num_top} ended "
            f"among the best {TOP_SHARE:.0%} ({lost.share:.0%}, 95% interval {lost.low:.0%} to {lost.high:.0%}): early "
            f"stopping loses about {lost.lost_share:.0%} of the best {TOP_SHARE:.0%}."
        )
    cut = None if audit.lost_top_trials is None else audit.safe_first_rung
    if cut is not None and cut.num_top >= MIN_TOP_TRIALS:
        sentences.append(
            f"The data support a grace period of {pluralize(cut.grace_epochs, 'epoch')} and a reduction factor of "
            f"{cut.reduction_factor}. This is the cheapest first cut that would have kept every trial of the best "
            f"{TOP_SHARE:.0%} ({cut.num_top} of {cut.num_top}, 95% interval from {cut.kept_low:.0%}), with "
            f"{cut.epochs_share:.0%} of the epochs."
        )
    return sentences


def _correlation(correlation: Correlation | None) -> str:
    return "–" if correlation is None else f"{correlation.value:.2f} ({correlation.low:.2f} to {correlation.high:.2f})"


def _replay_table(audit: Audit) -> Table:
    rows = [
        [
            str(replay.grace_epochs),
            str(replay.reduction_factor),
            f"{replay.kept_top:.0%} of {replay.num_top}",
            f"{replay.kept_low:.0%}",
            f"{replay.epochs_share:.0%}",
        ]
        for replay in audit.first_rung_replays
    ]
    caveat = "" if audit.lost_top_trials else "; from finished trials only, which makes early cuts look better"
    caption = f"Replays of the first cut on {audit.first_rung_replays[0].num_trials} complete curves{caveat}"
    columns = ["grace period", "reduction factor", f"best {TOP_SHARE:.0%} kept", "95% interval from", "epochs trained"]
    return Table(caption, columns, rows)


def time_and_money(data: ReportData) -> Panel:
    """Build the panel of worker time and cost by outcome."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(data.trials, key=lambda trial: trial.rung or data.sweep.asha.max_epochs + 1):
        groups.setdefault(end_label(trial), []).append(trial)
    total, cost = data.trial_seconds, data.cost
    rows = [_row(outcome, trials, total, cost) for outcome, trials in groups.items()]
    rows.append(_row("all", data.trials, total, cost))
    columns = ["outcome", "trials", "epochs", "worker seconds", "share", *(["cost"] if cost is not None else [])]
    seconds = data.status.get("seconds")
    text = [f"{total:.1f} worker seconds" + (f" in {seconds:.1f} s of wall-clock time." if seconds else ".")]
    if cost is None:
        text.append("No cost: the recipe sets no price (stop.cpu_price_per_hour, stop.gpu_price_per_hour).")
    else:
        text.append(f"At the recipe’s prices the trials cost {cost:.4f}.")
    bars = {
        "type": "bar",
        "y": list(groups),
        "x": [sum(trial.seconds for trial in trials) for trials in groups.values()],
        "orientation": "h",
        "marker": {"color": style.BLUE},
        "hovertemplate": "%{y}: %{x:.1f} s<extra></extra>",
    }
    plot = style.plot(
        [bars],
        height=110 + 40 * len(groups),
        xaxis=style.axis("worker seconds"),
        yaxis={"autorange": "reversed"},
    )
    figures = [Figure("time", plot, "Worker seconds by outcome; the table has the numbers.")]
    return Panel(
        "time-and-money", "Time and cost", text, figures, [Table("Trials by outcome", columns, rows, is_open=True)]
    )


def _row(outcome: str, trials: list[TrialRecord], total: float, cost: float | None) -> list[str]:
    seconds = sum(trial.seconds for trial in trials)
    share = seconds / total if total else 0.0
    epochs = sum(map(own_epochs, trials))
    return [
        outcome,
        str(len(trials)),
        str(epochs),
        f"{seconds:.1f}",
        f"{share:.0%}",
        *([] if cost is None else [f"{share * cost:.4f}"]),
    ]
