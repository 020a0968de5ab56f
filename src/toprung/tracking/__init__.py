"""MLflow: record a sweep as a parent run with one child run per trial, and serve MLflow's pages on loopback."""
