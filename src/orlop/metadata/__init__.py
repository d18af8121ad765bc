"""L2: SQLite, and nothing else touches it: images under --root, pods under --state."""
