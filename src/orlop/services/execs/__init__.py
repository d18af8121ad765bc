"""Use cases of processes that join a running container."""
