"""Digests: ``algorithm:hex`` as in image-spec descriptor.md, checked before a text is used for anything, least of all
a path.

Owns the grammar and the set of known algorithms; never hashes files. Test: tests/unit/specs/test_digest.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from orlop.base.errors import InvalidArgument
from orlop.base.ids import ChainId, DiffId, Digest

ALGORITHMS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Known algorithms with their number of hex digits."""
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


def parse_digest(text: str) -> Digest:
    """Return a well-formed digest of a known algorithm; raises InvalidArgument naming what is wrong with it."""
    algorithm, separator, encoded = text.partition(":")
    shown = text if len(text) <= 160 else f"{text[:160]}..."
    if not separator:
        raise InvalidArgument(f"digest {shown!r}: has no algorithm")
    digits = ALGORITHMS.get(algorithm)
    if digits is None:
        raise InvalidArgument(f"digest {shown!r}: algorithm is not one of {', '.join(ALGORITHMS)}")
    if len(encoded) != digits or _HEX.fullmatch(encoded) is None:
        raise InvalidArgument(f"digest {shown!r}: {algorithm} needs {digits} lower-case hex digits")
    return Digest(text)


def algorithm_of(digest: Digest | DiffId) -> str:
    return digest.partition(":")[0]


def hex_of(digest: Digest | DiffId | ChainId) -> str:
    return digest.partition(":")[2]


def sha256_of(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def matches(data: bytes, digest: Digest) -> bool:
    """Say whether bytes have a digest."""
    return hashlib.new(algorithm_of(digest), data).hexdigest() == hex_of(digest)


def chain_id(diff_ids: Sequence[DiffId]) -> ChainId:
    """Return the identity of a stack of layers, bottom first (image-spec config.md, layer ChainID)."""
    chain = ""
    for diff_id in diff_ids:
        chain = str(diff_id) if not chain else str(sha256_of(f"{chain} {diff_id}".encode()))
    return ChainId(chain)
