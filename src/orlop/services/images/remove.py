"""RemoveImage: the row first, durably; then what no image, container or pull needs any more.

Test: tests/kernel/registry/test_pull.py.
"""

from __future__ import annotations

from orlop.base import faults
from orlop.services.images.parts import ImageParts
from orlop.services.images.status import find_image

ROW = "image.remove.row"
faults.declare(ROW)


async def remove_image(parts: ImageParts, reference: str) -> None:
    """Remove an image with all its names; one that is not there is removed already.

    Layers that containers use stay until ``prune_layers`` finds that nobody does.
    """
    image_id = find_image(parts, reference)
    if image_id is None:
        return
    await parts.db.remove(image_id)
    faults.reach(ROW)
    prune_layers(parts)
    prune_blobs(parts)


def prune_layers(parts: ImageParts) -> int:
    """Throw away the layers that no image, container or pull under way needs; returns how many."""
    needed = parts.layers_in_use() | {diff_id for row in parts.db.rows() for diff_id in row.diff_ids}
    unneeded = [d for d in parts.layers.all_layers() if d not in needed and d not in parts.held]
    for diff_id in unneeded:
        parts.layers.remove(diff_id)
    chains = {row.chain for row in parts.db.rows()}
    for chain, diff_ids in parts.layers.all_chains():
        # A container may have the chain mounted although its image is gone: it then uses all of the chain's layers.
        if chain not in chains and chain not in parts.held and not needed.issuperset(diff_ids):
            parts.layers.remove_chain(chain)
    return len(unneeded)


def prune_blobs(parts: ImageParts) -> None:
    """Remove the documents that no image or pull under way needs."""
    needed = {digest for row in parts.db.rows() for digest in row.blobs}
    for digest in parts.store.digests():
        if digest not in needed and digest not in parts.held:
            parts.store.remove(digest)
