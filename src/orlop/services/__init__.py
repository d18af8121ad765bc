"""L3: use cases, one file a verb; the only place where parts meet."""
