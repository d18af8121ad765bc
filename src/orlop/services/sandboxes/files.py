"""The pod's /etc/hosts, /etc/resolv.conf and /etc/hostname, written once its addresses are known and bound into each container.

Test: tests/kernel/services/test_sandboxes.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from orlop.metadata.pods import SandboxRow
from orlop.network.hostsfiles import render_hostname, render_hosts, render_resolv_conf
from orlop.services.node import Node

FILE_MODE = 0o644
"""Any user of a container must be able to read them; the pod directory itself is closed."""


def write_pod_files(node: Node, row: SandboxRow) -> None:
    """Write the three files into the pod directory. Raises InvalidArgument for a name or resolver that may not stand in a file."""
    hostname = row.config.hostname or os.uname().nodename
    host = row.host_network
    _write(node.state.hosts(row.id), render_hosts(hostname, row.ips, host_network=host))
    _write(node.state.resolv_conf(row.id), render_resolv_conf(row.config.dns, host_network=host))
    _write(node.state.hostname(row.id), render_hostname(hostname))


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        os.fchmod(fd, FILE_MODE)
        os.write(fd, text.encode())
    finally:
        os.close(fd)
