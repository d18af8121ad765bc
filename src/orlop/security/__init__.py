"""L2: what a container may do and whether it may be made: profiles, signatures, admission."""
