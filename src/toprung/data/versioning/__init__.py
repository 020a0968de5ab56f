"""The project as a DVC repository: stages, dvc.lock, lineage and settings."""
