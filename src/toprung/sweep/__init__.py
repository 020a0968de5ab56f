"""A sweep from its recipe to its export: the room that drives Ray Tune."""
