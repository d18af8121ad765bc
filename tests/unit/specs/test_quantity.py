"""Amounts of bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.specs.quantity import MAXIMUM, parse_bytes


@pytest.mark.parametrize(
    ("text", "amount"), [("0", 0), ("1500", 1500), ("64Ki", 65536), ("10M", 10**7), ("2Gi", 1 << 31)]
)
def test_forms(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text", ["", "Ki", "-1", "1.5Gi", "1 Gi", "1KB", "1g", "٣", "1Gi\n", "9" * 19 + "Ti", "9" * 30]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of bytes|is more than"):
        parse_bytes(text)


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= parse_bytes(text) <= MAXIMUM
