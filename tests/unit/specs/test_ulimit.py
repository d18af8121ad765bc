"""Limits of processes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.oci.kernelnames import RLIMIT_NUMBERS
from orlop.specs.runtime import Rlimit
from orlop.specs.ulimit import INFINITY, NAMES, parse_ulimit, parse_ulimits


@pytest.mark.parametrize(
    ("text", "soft", "hard"),
    [
        ("nofile=1024:2048", 1024, 2048),
        ("NOFILE=5", 5, 5),
        ("RLIMIT_NOFILE=5:unlimited", 5, INFINITY),
        ("nofile=-1", INFINITY, INFINITY),
    ],
)
def test_forms(text: str, soft: int, hard: int) -> None:
    assert parse_ulimit(text) == Rlimit(type="RLIMIT_NOFILE", soft=soft, hard=hard)


def test_a_list() -> None:
    assert [each.type for each in parse_ulimits("nofile=1, nproc=2:3")] == ["RLIMIT_NOFILE", "RLIMIT_NPROC"]
    with pytest.raises(ValueError, match="'nofile' is given twice"):
        parse_ulimits("nofile=1,nofile=2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not NAME=SOFT"),
        ("nofile", "is not NAME=SOFT"),
        ("nofile=", "is not NAME=SOFT"),
        ("nofile=1:", "is not NAME=SOFT"),
        ("nofile=-2", "is not NAME=SOFT"),
        ("nofile=1:2:3", "is not NAME=SOFT"),
        ("nofile=٣", "is not NAME=SOFT"),
        ("files=1", "'files' is not one of as, core"),
        ("nofile=3:2", "soft limit is above"),
        ("nofile=unlimited:2", "soft limit is above"),
    ],
)
def test_what_is_no_limit(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_ulimit(text)


def test_every_name_is_the_kernels() -> None:
    assert {f"RLIMIT_{name.upper()}" for name in NAMES} == set(RLIMIT_NUMBERS)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_ulimits(text)
    except ValueError:
        return
    assert all(0 <= each.soft <= each.hard <= INFINITY for each in found)
