"""L2: from an OCI runtime spec to a launch plan. Pure: no root, no I/O; the plan is run by native/init.c."""
