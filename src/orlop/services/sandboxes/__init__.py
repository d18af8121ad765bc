"""Use cases of pod sandboxes: run, stop, remove, status, stats."""
