"""Runtime handlers: who makes a pod's containers. ``orlop`` itself, or the program of another OCI runtime (crun, runc)."""
