"""What a registry serves under a name: a manifest or an index. Test: tests/kernel/registry/test_pull.py."""

from __future__ import annotations

from dataclasses import dataclass

from orlop.base.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or an index with the type that it was served as."""

    digest: Digest
    content_type: str
    data: bytes
