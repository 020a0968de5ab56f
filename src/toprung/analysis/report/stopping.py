"""Early stopping under audit, time, and money."""

from __future__ import annotations

import plotly.graph_objects as go

from toprung.analysis.audit import TOP_SHARE, Audit
from toprung.analysis.curves import own_epochs
from toprung.analysis.rank_correlation import FEWEST_TRIALS, Correlation
from toprung.analysis.report import style
from toprung.analysis.report.findings import Findings
from toprung.analysis.report.panel import Figure, Panel, Table, ended, number
from toprung.ledger import TrialRecord


def asha_audit(found: Findings) -> Panel:
    """Was stopping early wise?"""
    audit, metric = found.audit, found.sweep.metric
    rungs, full = found.sweep.rungs[:-1], found.sweep.asha.max_epochs
    text = [*audit_sentences(audit)]
    if not rungs:
        return Panel("asha-audit", "Early stopping under audit", [f"Nothing was stopped: {full} epochs, one rung."])
    rows = [
        [
            str(each.rung),
            str(each.num_judged),
            str(each.num_stopped),
            *map(number, each.cutoffs or (None, None)),
            str(each.num_finished),
            _correlation(each.kendall),
            _correlation(each.spearman),
        ]
        for each in audit.rungs
    ]
    columns = ["rung", "judged", "stopped", "best stopped", "lowest passed", "to the end", "Kendall", "Spearman"]
    tables = [Table("Rungs", columns, rows, is_open=True)]
    if audit.support:
        tables.append(_support(audit))
    whole = [trial for trial in found.finished if all(rung in trial.epochs_by_number for rung in rungs)]
    plot = go.Figure()
    for place, rung in enumerate(rungs):
        plot.add_trace(
            go.Scatter(
                x=[trial.epochs_by_number[rung].metrics[metric] for trial in whole],
                y=[trial.value for trial in whole],
                customdata=[trial.number for trial in whole],
                mode="markers",
                name=f"rung {rung}",
                marker={"color": style.PALETTE[place % 6], "symbol": style.SYMBOLS[place % 6], "size": 8},
                hovertemplate="trial %{customdata}: %{x:.4f}, at its best %{y:.4f}<extra>rung " + f"{rung}</extra>",
            )
        )
    style.settle(plot, xaxis_title=f"{metric} at the rung", yaxis_title=f"best {metric}")
    alt = f"Value at each rung against the best value, for {len(whole)} finished trials."
    return Panel("asha-audit", "Early stopping under audit", text, [Figure("asha-audit", plot, alt)], tables)


def audit_sentences(audit: Audit) -> list[str]:
    """What the audit found, in words."""
    saved = f"stopping early saved {audit.epochs_saved:.0%}"
    sentences = [f"{audit.epochs_spent} epochs were trained instead of {audit.epochs_in_full}: {saved}."]
    finished = max((each.num_finished for each in audit.rungs), default=0)
    if finished < FEWEST_TRIALS:
        sentences.append(f"No correlations: {finished} trials finished; they are given from {FEWEST_TRIALS} on.")
    elif audit.killed is None:
        sentences.append(
            f"Correlations of the value at a rung with the best one are over the {finished} finished trials, which "
            "every rung let pass: over all trials they would probably be higher."
        )
    else:
        sentences.append(
            f"Correlations of the value at a rung with the best one are over {finished} trials that ran to the end, "
            "audited ones counted for all those that they stand for."
        )
    if (killed := audit.killed) is None:
        sentences.append(
            "No stopped trial was let run on, so what stopping threw away is unknown. A recipe with "
            "asha.audit_fraction=0.1 lets one in ten of them run to the end."
        )
    else:
        sentences.append(
            f"Of {killed.num_audited} trials that ran on against a stop, {killed.num_top} ended among the best "
            f"{TOP_SHARE:.0%} ({killed.share:.0%}, 95% interval {killed.low:.0%} to {killed.high:.0%}): stopping "
            f"loses about {killed.lost_share:.0%} of the best {TOP_SHARE:.0%}."
        )
    if (cut := audit.supported) is not None:
        sentences.append(
            f"The data support a grace period of {cut.grace_epochs} and a reduction factor of {cut.reduction_factor}: "
            f"the cheapest first cut that would have kept all {cut.num_top} of the best {TOP_SHARE:.0%}, with "
            f"{cut.epochs_share:.0%} of the epochs (95% interval on what it keeps: from {cut.kept_low:.0%})."
        )
    return sentences


def _correlation(found: Correlation | None) -> str:
    return "–" if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _support(audit: Audit) -> Table:
    rows = [
        [
            str(each.grace_epochs),
            str(each.reduction_factor),
            f"{each.kept_top:.0%} of {each.num_top}",
            f"{each.kept_low:.0%}",
            f"{each.epochs_share:.0%}",
        ]
        for each in audit.support
    ]
    seen = "" if audit.killed else "; finished trials only, so it flatters early cuts"
    caption = f"What a first cut would have kept, of {audit.support[0].num_trials} whole curves{seen}"
    columns = ["grace epochs", "reduction factor", f"best {TOP_SHARE:.0%} kept", "at least", "epochs spent"]
    return Table(caption, columns, rows)


def time_and_money(found: Findings) -> Panel:
    """Where the workers' time went, and what it cost."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(found.trials, key=lambda trial: trial.rung or found.sweep.asha.max_epochs + 1):
        groups.setdefault(ended(trial), []).append(trial)
    total, cost = found.trial_seconds, found.cost
    rows = [_row(how, trials, total, cost) for how, trials in groups.items()]
    rows.append(_row("all", found.trials, total, cost))
    columns = ["ended", "trials", "epochs", "worker seconds", "share", *(["cost"] if cost is not None else [])]
    seconds = found.status.get("seconds")
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
