"""Recipes: which sweep to run. Each file's `sweep()` returns one."""
