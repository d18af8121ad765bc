"""L2: the daemon's face of the per-pod monitor: starting it, talking to it, reading its exit records."""
