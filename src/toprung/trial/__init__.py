"""A trial's own process: the session around the user's loop, and the other ranks of the trial."""
