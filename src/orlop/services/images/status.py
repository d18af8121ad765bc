"""ImageStatus: an image by id, prefix of an id, tag or digest; None when it is not present.

Touches memory only: CreateContainer asks on its way. Test: tests/kernel/registry/test_pull.py.
"""

from __future__ import annotations

import re

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.base.ids import Digest, ImageId
from orlop.services.images.parts import ImageParts, describe
from orlop.services.images.record import ImageRecord
from orlop.specs.digest import chain_id
from orlop.specs.reference import parse_reference

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII)
_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{4,63})", re.ASCII)


async def image_status(parts: ImageParts, reference: str) -> ImageRecord | None:
    """Return the image that a reference means. Raises InvalidArgument for what is no reference, or an id prefix of
    several images.
    """
    image_id = find_image(parts, reference)
    return None if image_id is None else describe(parts, image_id)


def image_info(parts: ImageParts, record: ImageRecord) -> dict[str, object]:
    """Return the verbose facts of an image: its own configuration document as it came, and what was made of it.

    Raises NotFound or DataLoss when the document is not as it was.
    """
    return {
        "imageSpec": msgspec.Raw(parts.store.read(Digest(record.id))),
        "chainID": chain_id(record.diff_ids) if record.diff_ids else "",
        "diffIDs": record.diff_ids,
        "layerPaths": [str(each) for each in record.layer_paths],
        "unpackedSize": record.unpacked_size,
        "pulledAt": record.pulled_at,
    }


def find_image(parts: ImageParts, reference: str) -> ImageId | None:
    """Return the id of the image that a reference means: a full id, then a name, then the prefix of an id."""
    if match := _ID.fullmatch(reference):
        image_id = ImageId(f"sha256:{match[1]}")
        return image_id if parts.db.row(image_id) else None
    try:
        named = parts.db.named(parse_reference(reference).canonical)
    except InvalidArgument:
        if _PREFIX.fullmatch(reference) is None:
            raise
        named = None
    if named is not None:
        return named
    if match := _PREFIX.fullmatch(reference):
        found = [row.id for row in parts.db.rows() if row.id.startswith(f"sha256:{match[1]}")]
        if len(found) > 1:
            raise InvalidArgument(f"image {reference}: is the prefix of {len(found)} ids")
        return found[0] if found else None
    return None
