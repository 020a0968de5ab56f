"""The user's project: its three packages, the files that are sent to trials, and the hash of its code."""
