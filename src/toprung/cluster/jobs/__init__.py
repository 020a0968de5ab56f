"""Sweeps as Ray jobs: what is sent to a cluster, the client on this machine, the entrypoint on the head."""
