"""MLflow: where runs are kept, one run a trial below one a sweep, and the user interface on loopback."""
