"""Use cases of containers: create, start, stop, remove, status, update, log, stats, and how an exit is taken in."""
