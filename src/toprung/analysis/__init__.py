"""Analysis of sweeps: summaries, comparisons, confirmations, audits and reports."""
