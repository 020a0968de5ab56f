"""A sweep's records on disk: directory, ledger, lineage and checkpoints; and the ranking of its trials."""
