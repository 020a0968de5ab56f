"""A sweep as a Ray job: what travels to a cluster, the client on this machine, the first steps on the head."""
