"""L5: the composition root: config, wiring, start order, signals."""
