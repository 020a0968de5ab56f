"""The process of a trial: the session around the user's loop, and the trial's other ranks."""
