"""NewTypes for every kind of id, so that swapping two kinds is a type error; and how new ids are made.

Sandbox and container ids are 64 lower-case hex digits, as containerd and CRI-O make them. Test: tests/unit/base/test_ids.py.
"""

from __future__ import annotations

import secrets
from typing import NewType

SandboxId = NewType("SandboxId", str)
ContainerId = NewType("ContainerId", str)
ExecId = NewType("ExecId", str)
Digest = NewType("Digest", str)
"""``sha256:<64 hex>`` of bytes as stored or transferred."""
DiffId = NewType("DiffId", str)
"""``sha256:<64 hex>`` of an uncompressed layer tar."""
ChainId = NewType("ChainId", str)
"""Identity of a stack of layers (image-spec config.md, layer ChainID)."""
ImageId = NewType("ImageId", str)
"""Digest of the image config document; what CRI calls image_id and image_ref."""

ID_HEX_DIGITS = 64


def new_sandbox_id() -> SandboxId:
    return SandboxId(secrets.token_hex(ID_HEX_DIGITS // 2))


def new_container_id() -> ContainerId:
    return ContainerId(secrets.token_hex(ID_HEX_DIGITS // 2))


def new_exec_id() -> ExecId:
    return ExecId(secrets.token_hex(8))
