"""CRI's ImageService: each RPC is one call of services/images. Translation only. Test: tests/unit/cri/test_image_service.py, tests/cri.

PullImage ends with its caller: kubelet's deadline is meant (what came is kept and a repeated pull goes on from there). What it
returns as image_ref is the image's id, as every other answer calls it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from orlop.base.errors import InvalidArgument
from orlop.cri import convert
from orlop.cri.entries import Entries, batches
from orlop.cri.listener import Service
from orlop.registry.credentials import Credentials
from orlop.services.filesystems import filesystems
from orlop.services.images.list import list_images
from orlop.services.images.pull import pull_image
from orlop.services.images.record import ImageRecord
from orlop.services.images.remove import remove_image
from orlop.services.images.status import image_info, image_status
from orlop.services.node import Node
from orlop.specs.cri_gen import api_pb2 as pb

log = logging.getLogger(__name__)


class ImageService(Service):
    """One method an RPC; each takes the request and returns the response."""

    descriptor = pb.DESCRIPTOR.services_by_name["ImageService"]
    changing = frozenset({"RemoveImage"})
    loud = frozenset({"PullImage"})

    def __init__(self, node: Node) -> None:
        self._node = node
        self._parts = node.images
        self._images: Entries[ImageRecord] = Entries((pb.ListImagesResponse, pb.StreamImagesResponse), image_out)

    async def ListImages(self, request: pb.ListImagesRequest) -> bytes:
        return b"".join(await self._list(request.filter))

    async def StreamImages(self, request: pb.StreamImagesRequest) -> AsyncIterator[bytes]:
        async for batch in batches(await self._list(request.filter)):
            yield batch

    async def _list(self, wanted: pb.ImageFilter) -> list[bytes]:
        reference = convert.image_spec_in(wanted.image, "filter.image").image
        return [self._images.fresh(each) for each in await list_images(self._parts, reference)]

    async def ImageStatus(self, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
        record = await image_status(self._parts, _reference(request.image))
        if record is None:  # not an error: no image in the answer says that there is none
            return pb.ImageStatusResponse()
        info = image_info(self._parts, record) if request.verbose else {}
        return pb.ImageStatusResponse(image=image_out(record), info=convert.info_out(info))

    async def PullImage(self, request: pb.PullImageRequest) -> pb.PullImageResponse:
        credentials = credentials_in(request.auth) if request.HasField("auth") else None
        record = await pull_image(self._parts, _reference(request.image), credentials=credentials)
        return pb.PullImageResponse(image_ref=record.id)

    async def RemoveImage(self, request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
        await remove_image(self._parts, _reference(request.image))
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, _: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
        images, containers = await filesystems(self._node)
        return pb.ImageFsInfoResponse(
            image_filesystems=[convert.filesystem_out(images)],
            container_filesystems=[convert.filesystem_out(containers)],
        )


def _reference(spec: pb.ImageSpec) -> str:
    if not spec.image:
        raise InvalidArgument("image.image: is empty")
    return convert.image_spec_in(spec, "image").image


def credentials_in(auth: pb.AuthConfig) -> Credentials | None:
    """Return credentials; None when all fields are empty, which kubelet sends for a public image."""
    if auth.auth and not auth.username:
        return Credentials.from_basic(auth.auth, auth.server_address)
    made = Credentials(
        username=auth.username,
        password=auth.password,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
        server_address=auth.server_address,
    )
    return made if made.username or made.identity_token or made.registry_token else None


def image_out(record: ImageRecord) -> pb.Image:
    """Return an image as CRI shows it. ``size`` may not be 0, even of an image with nothing in it."""
    return pb.Image(
        id=record.id,
        repo_tags=record.repo_tags,
        repo_digests=record.repo_digests,
        size=max(1, record.size),
        uid=None if record.uid is None else pb.Int64Value(value=record.uid),
        username=record.username,
        spec=pb.ImageSpec(image=record.id),
        pinned=record.pinned,
    )
