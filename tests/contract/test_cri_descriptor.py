"""Our .proto against the published Go module k8s.io/cri-api: same calls, messages, field numbers, types, enum numbers."""

from __future__ import annotations

import subprocess

import pytest

from orlop.specs.cri_gen import api_pb2
from tests.contract.descriptor import lines_of_file
from tests.tools.build import tool

# What ours has and the pinned module has not, and the reverse: both empty means that they are the same document.
OURS_ONLY: frozenset[str] = frozenset()
THEIRS_ONLY: frozenset[str] = frozenset()


def ours() -> set[str]:
    return lines_of_file(api_pb2.DESCRIPTOR)


@pytest.fixture(scope="module")
def theirs() -> set[str]:
    return set(subprocess.run([tool("cri-descriptor")], capture_output=True, text=True, check=True).stdout.splitlines())


def test_nothing_published_is_missing_or_different(theirs):
    assert sorted(theirs - ours() - THEIRS_ONLY) == []


def test_nothing_is_ours_alone(theirs):
    assert sorted(ours() - theirs - OURS_ONLY) == []


def test_the_lists_of_differences_are_up_to_date(theirs):
    assert not OURS_ONLY - (ours() - theirs)
    assert not THEIRS_ONLY - (theirs - ours())
