"""sd_notify: tell the service manager where the daemon stands. Nothing happens when nobody asked. Test: tests/unit/daemon/test_notify.py."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> bool:
    """Send a state such as ``READY=1`` to NOTIFY_SOCKET; return whether somebody was told.

    A failure is logged and not raised: a daemon that serves must not end because its manager's socket is gone.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if not address.startswith("/"):
        # Abstract sockets are not used by this daemon, not even towards its manager: any process of the network namespace may bind one.
        log.warning("NOTIFY_SOCKET %r is not a path; the service manager is not told", address)
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.send(state.encode())
    except OSError as error:
        log.warning("service manager at %s was not told %r: %s", address, state, error.strerror)
        return False
    return True
