"""A sweep on disk: its directory, ledger, lineage and checkpoints, and the ranking of its trials."""
