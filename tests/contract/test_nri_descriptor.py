"""Our nri.proto against the published Go module github.com/containerd/nri: same calls, messages, field numbers, types, enum numbers."""

from __future__ import annotations

import subprocess

import pytest

from orlop.specs.nri_gen import nri_pb2
from tests.contract.descriptor import lines_of_file
from tests.tools.build import tool

OURS_ONLY = {"enum Field 0 NoField"}
THEIRS_ONLY = {
    "enum Field 0 None",  # a word that Python keeps for itself
    # What plugins in WebAssembly call; there are none here.
    "call HostFunctions Log LogRequest Empty",
    "message LogRequest",
    "field LogRequest 1 msg optional string",
    "field LogRequest 2 level optional LogRequest.Level",
    "enum LogRequest.Level 0 LEVEL_UNSPECIFIED",
    "enum LogRequest.Level 1 LEVEL_DEBUG",
    "enum LogRequest.Level 2 LEVEL_INFO",
    "enum LogRequest.Level 3 LEVEL_WARN",
    "enum LogRequest.Level 4 LEVEL_ERROR",
}


@pytest.fixture(scope="module")
def theirs() -> set[str]:
    done = subprocess.run([tool("nri-plugin"), "-descriptor"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_they_differ_in_nothing_else(theirs):
    ours = lines_of_file(nri_pb2.DESCRIPTOR)
    assert theirs - ours == THEIRS_ONLY
    assert ours - theirs == OURS_ONLY
