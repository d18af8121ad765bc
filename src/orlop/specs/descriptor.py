"""Descriptors: what a name becomes once it is resolved (image-spec descriptor.md). From then on only digests move.

Owns media type, digest, size and platform of one piece of content; never its bytes. Test:
tests/unit/specs/test_image.py.
"""

from __future__ import annotations

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.base.ids import Digest
from orlop.specs.digest import parse_digest


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a manifest in an index was built for."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] | None = msgspec.field(default=None, name="os.features")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Content by type, digest and size; ``digest`` is checked by ``validated``."""

    media_type: str = ""
    digest: Digest
    size: int
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""

    def validated(self, subject: str) -> Descriptor:
        """Return itself; raises InvalidArgument when digest or size cannot be."""
        try:
            parse_digest(self.digest)
        except InvalidArgument as error:
            raise InvalidArgument(f"{subject}: {error}") from error
        if self.size < 0:
            raise InvalidArgument(f"{subject}: descriptor {self.digest} has the size {self.size}")
        return self
