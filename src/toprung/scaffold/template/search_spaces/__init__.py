"""Search spaces: one define-by-run Optuna function per file."""
