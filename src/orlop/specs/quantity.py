"""Amounts of bytes as Kubernetes writes them: ``1500``, ``64Ki``, ``10M``, ``2Gi``. Test: tests/unit/specs/test_quantity.py."""

from __future__ import annotations

import re
from typing import Final

_FORM: Final = re.compile(r"(\d{1,19})([kMGT]|[KMGT]i)?", re.ASCII)
_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
MAXIMUM: Final = 1 << 60


def parse_bytes(text: str) -> int:
    """Return the number of bytes. Raises ValueError with the reason."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of bytes such as 1500, 64Ki or 10M")
    amount = int(match[1]) * _UNITS[match[2] or ""]
    if amount > MAXIMUM:
        raise ValueError(f"{text!r} is more than {MAXIMUM} bytes")
    return amount
