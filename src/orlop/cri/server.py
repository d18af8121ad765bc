"""Which services the daemon's socket has: CRI's two and orlop's own. How they are served is in listener.py.

Test: tests/cri.
"""

from __future__ import annotations

from orlop.cri.image_service import ImageService
from orlop.cri.listener import Listener
from orlop.cri.node_service import NodeService
from orlop.cri.runtime_service import RuntimeService
from orlop.cri.runtime_streams import StreamUrls
from orlop.services.node import Node


class CriServer(Listener):
    """Listens from ``start`` on; answers UNAVAILABLE until ``open_gate``; ``stop`` leaves pods running."""

    def __init__(self, node: Node, listen: str, urls: StreamUrls) -> None:
        services = (RuntimeService(node, urls), ImageService(node), NodeService(node, node.images))
        super().__init__(services, listen, node.supervisor)
