"""L1: one file per kernel interface, named after its man page; typed calls that raise OSError. No policy, no logging."""
