"""Recipes: functions that return a Sweep. `sweep()` is the default one of each file."""
