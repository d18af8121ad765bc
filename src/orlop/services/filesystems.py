"""ImageFsInfo: what images and what writable layers take, each with the file system that they are on.

Images' figures are sums of what was counted while layers were applied; writable layers are counted as their statistics are
(containers/layer_usage.py), those of ended containers too. Test: tests/cri/test_inspect.py.
"""

from __future__ import annotations

import os
import time

from orlop.services.images.fs_info import image_fs_info
from orlop.services.node import Node
from orlop.specs.pod import FilesystemStats


async def filesystems(node: Node) -> tuple[FilesystemStats, FilesystemStats]:
    """Return (images, containers). Both have the same mountpoint unless writable layers are on a file system of their own."""
    images = await image_fs_info(node.images)
    layers = await node.layer_usages.of([row.id for row in node.pods.containers() if row.created_at])
    containers = FilesystemStats(
        timestamp=min((each.timestamp for each in layers.values()), default=time.time_ns()),
        mountpoint=container_mountpoint(node.root.root, node.root.containers),
        used_bytes=sum(each.used_bytes for each in layers.values()),
        inodes_used=sum(each.inodes_used for each in layers.values()),
    )
    return images, containers


def container_mountpoint(root: os.PathLike[str], containers: os.PathLike[str]) -> str:
    """Return the directory that names the file system of writable layers: kubelet compares it with that of images."""
    same = os.stat(root).st_dev == os.stat(containers).st_dev
    return os.fspath(root if same else containers)
