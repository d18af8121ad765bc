"""ListImages. Test: tests/kernel/registry/test_pull.py."""

from __future__ import annotations

from orlop.services.images.parts import ImageParts, describe
from orlop.services.images.record import ImageRecord
from orlop.services.images.status import image_status


async def list_images(parts: ImageParts, reference: str = "") -> list[ImageRecord]:
    """Return all images, or the one that a reference means."""
    if reference:
        record = await image_status(parts, reference)
        return [] if record is None else [record]
    return [record for row in parts.db.rows() if (record := describe(parts, row.id)) is not None]
