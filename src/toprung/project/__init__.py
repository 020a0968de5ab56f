"""The user's project: its three packages, what of it is sent to trials, and the hash of its code."""
