"""ImageFsInfo: what images take. Figures are sums of what was counted while layers were applied; no tree is walked.

Test: tests/kernel/registry/test_pull.py.
"""

from __future__ import annotations

import time

from orlop.services.images.parts import ImageParts
from orlop.specs.pod import FilesystemStats


async def image_fs_info(parts: ImageParts) -> FilesystemStats:
    """Return the usage of images; containers' writable layers are on the same filesystem."""
    used = inodes = 0
    for diff_id in parts.layers.all_layers():
        info = parts.layers.info(diff_id)
        if info is not None:
            used += info.size
            inodes += info.entries
    return FilesystemStats(
        timestamp=time.time_ns(), mountpoint=str(parts.paths.root), used_bytes=used, inodes_used=inodes
    )
