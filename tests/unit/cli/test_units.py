"""Sizes, times, ages, signals."""

import time

import pytest

from orlop.base.errors import InvalidArgument
from orlop.cli import units
from orlop.cli.signals import cri_signal, signal_number
from orlop.specs.cri_gen import api_pb2 as pb


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("512m", 512 << 20), ("1.5G", 3 << 29), ("2kb", 2048), ("3MiB", 3 << 20)]
)
def test_sizes_in(text, size):
    assert units.parse_size(text, "-m") == size


def test_sizes_out():
    assert [units.size(each) for each in (0, 999, 77_800_000)] == ["0B", "999B", "77.8MB"]
    assert units.memory(4718592) == "4.5MiB"


def test_times():
    assert abs(units.parse_time("10m", "--since") - (time.time_ns() - 600 * 10**9)) < 10**9
    assert units.parse_time("2026-01-02T03:04:05Z", "--since") == 1767323045 * 10**9
    assert units.timestamp(1767323045 * 10**9 + 7) == "2026-01-02T03:04:05.000000007Z"
    with pytest.raises(InvalidArgument, match="--since"):
        units.parse_time("soon", "--since")


def test_ages():
    now = 10**18
    ages = [units.age(now - seconds * 10**9, now) for seconds in (0, 1, 59, 60, 7200, 200_000)]
    assert ages == ["less than a second", "1 second", "59 seconds", "1 minute", "2 hours", "2 days"]


def test_signals():
    assert [signal_number(each, "-s") for each in ("KILL", "sigterm", "9", "RTMIN+3", "RTMAX-1")] == [9, 15, 9, 37, 63]
    for text in ("NOPE", "0", "65", "RTMIN-1"):
        with pytest.raises(InvalidArgument, match="-s"):
            signal_number(text, "-s")
    assert cri_signal(37) == pb.SIGNAL_SIGRTMINPLUS3
    assert cri_signal(64) == pb.SIGNAL_SIGRTMAX
    assert cri_signal(34) == pb.SIGNAL_SIGRTMIN
    with pytest.raises(InvalidArgument):
        cri_signal(32)
