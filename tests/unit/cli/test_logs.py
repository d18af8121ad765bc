"""orlop logs: pieces of lines, the last lines, times."""

import pytest

from orlop.cli import logs

LOG = b"""2026-01-01T00:00:01.000000000Z stdout F one
2026-01-01T00:00:02.000000000Z stdout P tw
2026-01-01T00:00:02.500000000Z stderr F error
2026-01-01T00:00:03.000000000Z stdout F o
2026-01-01T00:00:04.000000000Z stdout F\x20
"""


@pytest.fixture
def printed(capfdbinary):
    def run(*, tail=None, **options):
        printer = logs.Printer(**{"since": b"", "until": b"", "timestamps": False, **options})
        records = logs.parse_lines(iter(LOG.splitlines(keepends=True)))
        for record in records if tail is None else logs.last_lines(records, tail):
            printer.put(record)
        printer.end()
        return capfdbinary.readouterr()

    return run


@pytest.fixture(autouse=True)
def real_streams(monkeypatch):
    import io
    import os
    import sys

    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(os.fdopen(descriptor, "wb", closefd=False)))


def test_pieces_are_put_together(printed):
    assert printed() == (b"one\ntwo\n\n", b"error\n")


def test_tail_counts_whole_lines(printed):
    assert printed(tail=3) == (b"two\n\n", b"error\n")
    assert printed(tail=1) == (b"\n", b"")
    assert printed(tail=0) == (b"", b"")


def test_times(printed):
    assert printed(since=b"2026-01-01T00:00:02.9Z", timestamps=True).out == (
        b"2026-01-01T00:00:03.000000000Z o\n2026-01-01T00:00:04.000000000Z \n"
    )
    assert printed(until=b"2026-01-01T00:00:02.000000000Z").out == b"one\n"


def test_rotation_is_seen(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a")
    with path.open("rb") as file:
        assert not logs.replaced(str(path), file)
        path.rename(tmp_path / "log.1")
        assert not logs.replaced(str(path), file)
        path.write_bytes(b"b")
        assert logs.replaced(str(path), file)
