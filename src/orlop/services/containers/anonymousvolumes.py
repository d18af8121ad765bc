"""Anonymous volumes: each VOLUME of an image that no mount of the config covers is a directory of the container's own.

As containerd has it: it begins with what the image has at that place, it is not part of the writable layer (a database in it does not go
through overlayfs), it is writable under a read-only root, and it goes with the container. Test: tests/cri/test_image_volumes.py.
"""

from __future__ import annotations

import asyncio
import posixpath

import msgspec

from orlop.base.errors import InvalidArgument, named
from orlop.base.limits import IMAGE_VOLUMES
from orlop.metadata.pods import ContainerRow
from orlop.oci.validate import target_of
from orlop.services.images.record import ImageRecord
from orlop.snapshots.copyup import copy_up
from orlop.snapshots.overlay import OverlaySnapshots
from orlop.specs.pod import ContainerConfig, Mount


def volume_paths(config: ContainerConfig, image: ImageRecord) -> tuple[str, ...]:
    """Return the cleaned mount points, shortest first. Raises InvalidArgument for a VOLUME that can't be, or too many."""
    declared = image.config.volumes
    if not declared:
        return ()
    if len(declared) > IMAGE_VOLUMES:
        raise InvalidArgument(f"image {image.id}: VOLUME: {len(declared)} of them, limit {IMAGE_VOLUMES}")
    taken = {target_of("mounts.container_path", mount.container_path) for mount in config.mounts}
    found: dict[str, None] = {}
    for text in declared:
        target = target_of(f"image {image.id}: VOLUME {text!r}", posixpath.join("/", text))
        if target == "/":
            raise InvalidArgument(f"image {image.id}: VOLUME {text!r}: is the container's root")
        if target not in taken:
            found[target] = None
    return tuple(sorted(found, key=lambda target: target.count("/")))


async def with_anonymous_volumes(
    snapshots: OverlaySnapshots, row: ContainerRow, image: ImageRecord, rootfs: int
) -> ContainerRow:
    """Make and fill the volumes; return the row as it is launched: its config has them among its mounts.

    The row that is kept stays as it was asked for. What is made here is removed with the container's snapshot.
    """
    paths = volume_paths(row.config, image)
    if not paths:
        return row
    mounts = list(row.config.mounts)
    for number, path in enumerate(paths):
        directory = snapshots.make_volume(row.id, number)
        with named(f"image VOLUME {path}"):
            await asyncio.to_thread(copy_up, rootfs, path, directory)
        mounts.append(Mount(container_path=path, host_path=str(directory)))
    return msgspec.structs.replace(row, config=msgspec.structs.replace(row.config, mounts=tuple(mounts)))
