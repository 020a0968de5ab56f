"""Recipes: functions that return a Sweep. `sweep()` is the default recipe of each file."""
