"""Open this node to NRI plugins: start those of the plugin directory, then let others connect. Test: tests/cri/test_nri.py."""

from __future__ import annotations

import logging
from pathlib import Path

from orlop.base.errors import OrlopError
from orlop.nri.launch import launch_all
from orlop.nri.listen import Listener
from orlop.services.node import Node
from orlop.services.nri.runtime import NodeRuntime

log = logging.getLogger(__name__)


async def open_nri(
    node: Node, *, socket: Path | None, must_listen: bool, programs: Path | None, configurations: Path
) -> Listener | None:
    """Start plugins and listen, before the node serves: a plugin that is started sees every pod.

    ``socket`` None: nobody may connect; ``programs`` None: none are started. A socket that can't be had is an error only when it
    ``must_listen`` there (it was configured): else it is said in the log, for example because another runtime has it.
    """
    node.nri.runtime = NodeRuntime(node)
    if programs is not None:
        await launch_all(node.nri, programs, configurations)
    if socket is None:
        return None
    listener = Listener(node.nri, node.supervisor, socket)
    try:
        await listener.start()
    except OrlopError as error:
        if must_listen:
            raise
        log.warning("%s; no NRI plugin can connect (nri.socket_path names another place)", error)
        return None
    log.info("nri plugins may connect at %s", socket)
    return listener
