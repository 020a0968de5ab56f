"""Sweeps from recipe to export: the package that drives Ray Tune."""
