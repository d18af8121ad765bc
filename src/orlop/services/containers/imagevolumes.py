"""Image volumes: CRI's mounts of images, found before the container has a row, mounted as read-only views when it is launched.

A view is a detached mount whose only holder in the end is the container's mount namespace: it lives as long as the container does, with or
without the daemon, and leaves nothing. The layers below it are in use as long as the container's row names them. Never decides options:
spec_mounts does. Test: tests/cri/test_volumes.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from orlop.base.errors import InvalidArgument, NotFound
from orlop.oci.ops import Fd
from orlop.services.containers.spec_mounts import image_label, image_mounts
from orlop.services.images.parts import ImageParts
from orlop.services.images.record import ImageRecord
from orlop.services.images.status import image_status
from orlop.snapshots.overlay import OverlaySnapshots
from orlop.specs.pod import ContainerConfig, Mount


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVolume:
    """An image that is to be mounted in a container."""

    target: str
    """Mount point, cleaned."""
    mount: Mount
    image: ImageRecord


async def find_image_volumes(parts: ImageParts, config: ContainerConfig, subject: str) -> tuple[ImageVolume, ...]:
    """Return the images that a config mounts. Raises NotFound for one that is not present, InvalidArgument for what is no reference."""
    found = []
    for target, mount in image_mounts(config).items():
        reference = mount.image.image if mount.image is not None else ""
        try:
            image = await image_status(parts, reference)
        except InvalidArgument as error:
            raise InvalidArgument(f"{subject}: mounts: {mount.container_path}: image: {error}") from error
        if image is None:
            raise NotFound(f"{subject}: mounts: {mount.container_path}: image {reference!r} is not present")
        found.append(ImageVolume(target=target, mount=mount, image=image))
    return tuple(found)


def open_image_volume(
    snapshots: OverlaySnapshots, volume: ImageVolume, subject: str, *, userns_fd: int = -1
) -> tuple[Fd, int]:
    """Return the plan's label and the fd of a volume's view. Raises NotFound and InvalidArgument for its sub path, FailedPrecondition."""
    field = f"{subject}: mounts: {volume.mount.container_path}"
    if volume.mount.image_sub_path:
        field += ": image_sub_path"
    view = snapshots.view(field, volume.image.layer_paths, sub_path=volume.mount.image_sub_path, userns_fd=userns_fd)
    return image_label(volume.target), view
