"""L2: root filesystems of containers."""
