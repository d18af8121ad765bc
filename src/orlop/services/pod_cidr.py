"""UpdateRuntimeConfig: the ranges that the cluster has given this node, CRI's only runtime setting. Test: tests/cri/test_pod_cidr.py.

As in containerd and CRI-O the network's own configuration decides the addresses: a CNI plugin's is written by whoever installs it, the
built-in network's by the operator. The built-in network compares its subnets with the ranges and says in Status when they differ.
"""

from __future__ import annotations

import logging

from orlop.services.node import Node

log = logging.getLogger(__name__)


def set_pod_cidr(node: Node, text: str) -> None:
    """Take in one range, or one of each family separated by a comma; empty is none. Raises InvalidArgument for what is no range."""
    ranges = [part.strip() for part in text.split(",") if part.strip()]
    node.network.set_pod_ranges(ranges)
    log.info("pod_cidr: the cluster gave this node %s", ", ".join(ranges) or "nothing")
