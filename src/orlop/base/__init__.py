"""L0: errors, ids, paths, rollback, supervision, fault points. Standard library only."""
