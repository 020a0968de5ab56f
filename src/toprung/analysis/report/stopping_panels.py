"""Early stopping under audit, time, and money."""

from __future__ import annotations

import plotly.graph_objects as go

from toprung.analysis.audit import TOP_SHARE, Audit
from toprung.analysis.curves import own_epochs
from toprung.analysis.rank_correlation import MIN_TRIALS, Correlation
from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, end_label, format_number
from toprung.records.trial_record import TrialRecord


def asha_audit(data: ReportData) -> Panel:
    """Was stopping early wise?"""
    audit, metric = data.audit, data.sweep.metric
    rungs, full = data.sweep.rungs[:-1], data.sweep.asha.max_epochs
    text = [*audit_sentences(audit)]
    if not rungs:
        return Panel("asha-audit", "Early stopping under audit", [f"Nothing was stopped: {full} epochs, one rung."])
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
    columns = ["rung", "judged", "stopped", "best stopped", "lowest passed", "to the end", "Kendall", "Spearman"]
    tables = [Table("Rungs", columns, rows, is_open=True)]
    if audit.first_rung_replays:
        tables.append(_support(audit))
    whole = [trial for trial in data.finished if all(rung in trial.epochs_by_number for rung in rungs)]
    plot = go.Figure()
    for index, rung in enumerate(rungs):
        plot.add_trace(
            go.Scatter(
                x=[trial.epochs_by_number[rung].metrics[metric] for trial in whole],
                y=[trial.value for trial in whole],
                customdata=[trial.number for trial in whole],
                mode="markers",
                name=f"rung {rung}",
                marker={"color": style.PALETTE[index % 6], "symbol": style.SYMBOLS[index % 6], "size": 8},
                hovertemplate="trial %{customdata}: %{x:.4f}, at its best %{y:.4f}<extra>rung " + f"{rung}</extra>",
            )
        )
    style.settle(plot, xaxis_title=f"{metric} at the rung", yaxis_title=f"best {metric}")
    alt = f"Value at each rung against the best value, for {len(whole)} finished trials."
    return Panel("asha-audit", "Early stopping under audit", text, [Figure("asha-audit", plot, alt)], tables)


def audit_sentences(audit: Audit) -> list[str]:
    """What the audit found, in words."""
    saved_text = f"stopping early saved {audit.epochs_saved:.0%}"
    sentences = [f"{audit.epochs_spent} epochs were trained instead of {audit.epochs_in_full}: {saved_text}."]
    finished = max((rung_audit.num_finished for rung_audit in audit.rungs), default=0)
    if finished < MIN_TRIALS:
        sentences.append(f"No correlations: {finished} trials finished; they are given from {MIN_TRIALS} on.")
    elif audit.lost_top_trials is None:
        sentences.append(
            f"Correlations of the value at a rung with the best one are over the {finished} finished trials, which "
            "every rung let pass: over all trials they would probably be higher."
        )
    else:
        sentences.append(
            f"Correlations of the value at a rung with the best one are over {finished} trials that ran to the end, "
            "audited ones counted for all those that they stand for."
        )
    if (lost := audit.lost_top_trials) is None:
        sentences.append(
            "No stopped trial was let run on, so what stopping threw away is unknown. A recipe with "
            "asha.audit_fraction=0.1 lets one in ten of them run to the end."
        )
    else:
        sentences.append(
            f"Of {lost.num_audited} trials that ran on against a stop, {lost.num_top} ended among the best "
            f"{TOP_SHARE:.0%} ({lost.share:.0%}, 95% interval {lost.low:.0%} to {lost.high:.0%}): stopping "
            f"loses about {lost.lost_share:.0%} of the best {TOP_SHARE:.0%}."
        )
    if (cut := audit.safe_first_rung) is not None:
        sentences.append(
            f"The data support a grace period of {cut.grace_epochs} and a reduction factor of {cut.reduction_factor}: "
            f"the cheapest first cut that would have kept all {cut.num_top} of the best {TOP_SHARE:.0%}, with "
            f"{cut.epochs_share:.0%} of the epochs (95% interval on what it keeps: from {cut.kept_low:.0%})."
        )
    return sentences


def _correlation(correlation: Correlation | None) -> str:
    return "–" if correlation is None else f"{correlation.value:.2f} ({correlation.low:.2f} to {correlation.high:.2f})"


def _support(audit: Audit) -> Table:
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
    caveat = "" if audit.lost_top_trials else "; finished trials only, so it flatters early cuts"
    caption = f"What a first cut would have kept, of {audit.first_rung_replays[0].num_trials} whole curves{caveat}"
    columns = ["grace epochs", "reduction factor", f"best {TOP_SHARE:.0%} kept", "at least", "epochs spent"]
    return Table(caption, columns, rows)


def time_and_money(data: ReportData) -> Panel:
    """Where the workers' time went, and what it cost."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(data.trials, key=lambda trial: trial.rung or data.sweep.asha.max_epochs + 1):
        groups.setdefault(end_label(trial), []).append(trial)
    total, cost = data.trial_seconds, data.cost
    rows = [_row(how, trials, total, cost) for how, trials in groups.items()]
    rows.append(_row("all", data.trials, total, cost))
    columns = ["ended", "trials", "epochs", "worker seconds", "share", *(["cost"] if cost is not None else [])]
    seconds = data.status.get("seconds")
    text = [f"{total:.1f} worker seconds" + (f" in {seconds:.1f} s of wall clock." if seconds else ".")]
    if cost is None:
        text.append("No price is set (stop.cpu_price_per_hour, stop.gpu_price_per_hour): no cost is given.")
    else:
        text.append(f"By the recipe’s prices the trials cost {cost:.4f}.")
    plot = go.Figure(
        go.Bar(
            y=list(groups),
            x=[sum(trial.seconds for trial in trials) for trials in groups.values()],
            orientation="h",
            marker={"color": style.BLUE},
            hovertemplate="%{y}: %{x:.1f} s<extra></extra>",
        )
    )
    style.settle(plot, height=110 + 40 * len(groups), xaxis_title="worker seconds")
    plot.update_yaxes(autorange="reversed")
    figures = [Figure("time", plot, "Worker seconds by how trials ended; the table gives the figures.")]
    return Panel(
        "time-and-money", "Time and money", text, figures, [Table("By their end", columns, rows, is_open=True)]
    )


def _row(how: str, trials: list[TrialRecord], total: float, cost: float | None) -> list[str]:
    seconds = sum(trial.seconds for trial in trials)
    share = seconds / total if total else 0.0
    epochs = sum(map(own_epochs, trials))
    return [
        how,
        str(len(trials)),
        str(epochs),
        f"{seconds:.1f}",
        f"{share:.0%}",
        *([] if cost is None else [f"{share * cost:.4f}"]),
    ]
