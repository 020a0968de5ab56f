"""The winner in a folder that others can load, verified before it is shown."""
