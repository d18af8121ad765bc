"""L2: the pod's network: the built-in bridge, CNI plugins, the files that name hosts, traffic counters."""
