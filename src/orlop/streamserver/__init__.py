"""The HTTP server of streaming sessions: tokens, upgrades, TLS, and the bytes between a client and a container."""
