"""L2: verified bytes by digest."""
