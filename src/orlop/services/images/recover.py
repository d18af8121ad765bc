"""At start: remove what a crash left half made, and images that a power loss may have torn.

Reads facts, never guesses: a row of another boot that was not synced, or whose layers are gone, is removed.
Test: tests/faults/test_pull_faults.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

from orlop.base import limits
from orlop.base.ids import ImageId
from orlop.kernel.syncfs import syncfs
from orlop.services.images.parts import ImageParts
from orlop.services.images.remove import prune_blobs, prune_layers

log = logging.getLogger(__name__)


async def recover_images(parts: ImageParts) -> None:
    """Bring the root directory to what the rows say; call it before anything is pulled or created."""
    for entry in os.scandir(parts.paths.staging):
        parts.trash.discard(parts.paths.staging / entry.name)
    parts.trash.empty()
    parts.store.drop_drafts(limits.INGEST_KEEP_SECONDS, time.time())
    for image_id, boot in parts.db.unsynced().items():
        if boot != parts.boot_id:
            log.warning("image %s: was not on the disk when the machine went down, removed", image_id)
            await parts.db.remove(image_id)
    for row in parts.db.rows():
        missing = [diff_id for diff_id in row.diff_ids if parts.layers.info(diff_id) is None]
        if missing:
            log.warning("image %s: layer %s is missing, removed", row.id, missing[0])
            await parts.db.remove(row.id)
    prune_layers(parts)
    prune_blobs(parts)
    if unsynced := list(parts.db.unsynced()):
        parts.supervisor.spawn("image-sync", sync_images(parts, unsynced))


async def sync_images(parts: ImageParts, image_ids: list[ImageId]) -> None:
    """Wait until the content of images is on the disk, then record it. One syncfs covers all their layers."""
    fd = os.open(parts.paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await asyncio.to_thread(syncfs, fd)
    finally:
        os.close(fd)
    await parts.db.synced(image_ids)
