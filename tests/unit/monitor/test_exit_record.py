"""Exit records are read strictly: a half one is DataLoss, never a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop.base.errors import DataLoss
from orlop.monitor.exit_record import ExitRecord, load_exit_record, parse_exit_record

TEXT = "id=ab12\npid=77\nstart_time=123456\nexit_code=137\nsignal=9\noom_killed=1\noom_kills=2\nfinished_ns=1700000000123456789\n"
RECORD = ExitRecord(
    id="ab12",
    pid=77,
    start_time=123456,
    exit_code=137,
    signal=9,
    oom_killed=True,
    oom_kills=2,
    finished_ns=1700000000123456789,
)


def test_a_record_is_read() -> None:
    assert parse_exit_record(TEXT, "test") == RECORD


@pytest.mark.parametrize("length", range(len(TEXT)))
def test_a_record_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(DataLoss):
        parse_exit_record(TEXT[:length], "test")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pid=77", "pid=-1"),
        ("pid=77", "pid= 77"),
        ("pid=77", "pid=7_7"),
        ("pid=77", "pid=٣"),
        ("pid=77\n", ""),
        ("signal=9", "signal=9\nsignal=9"),
        ("oom_killed=1", "oom_killed=2"),
        ("id=ab12", "id="),
        ("exit_code", "code"),
    ],
)
def test_a_record_with_a_wrong_line_is_refused(old: str, new: str) -> None:
    with pytest.raises(DataLoss):
        parse_exit_record(TEXT.replace(old, new), "test")


def test_load_exit_record(tmp_path: Path) -> None:
    path = tmp_path / "ab12.exit"
    assert load_exit_record(path) is None
    path.write_text(TEXT)
    assert load_exit_record(path) == RECORD
    other = tmp_path / "cd34.exit"
    other.write_text(TEXT)
    with pytest.raises(DataLoss, match="is about ab12"):
        load_exit_record(other)
    path.write_text(TEXT + "\n" * 5000)
    with pytest.raises(DataLoss, match="longer than"):
        load_exit_record(path)
