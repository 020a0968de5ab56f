"""What may vary: one define-by-run Optuna function a file."""
