"""Which processes are a container's, from a /proc of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition
from orlop.cli.top import cgroup_of, processes

V1 = "12:memory:/pods/{0}\n3:cpu,cpuacct:/other\n0::/elsewhere\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12:memory:/a\n0::/b\n", ("memory", "/a")),
        ("2:cpu,pids:/a\n1:name=systemd:/c\n", ("cpu,pids", "/a")),
        ("0::/pods/a:b\n", ("", "/pods/a:b")),
        ("1:name=systemd:/c\n", ("", "")),
    ],
)
def test_the_cgroup_to_go_by(text, found):
    assert cgroup_of(text) == found


def process(proc: Path, pid: int, cgroup: str, name: str = "sh", command: bytes = b"") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(cgroup)
    (proc / str(pid) / "cmdline").write_bytes(command)
    fields = ["S", "1", *["0"] * 9, "36500", "36500", *["0"] * 4, "1", "0", "100", "0", "25", *["0"] * 20]
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_those_of_the_cgroup_and_below_it(tmp_path):
    (tmp_path / "uptime").write_text("1000.0 1\n")
    process(tmp_path, 10, V1.format("one"), command=b"sleep\x003600\x00")
    process(tmp_path, 9, V1.format("one/exec-1"), name="a) S (b")
    process(tmp_path, 11, V1.format("one-more"))
    process(tmp_path, 12, V1.format("two"))
    (tmp_path / "13").mkdir()  # has ended: its files are gone
    rows = processes(tmp_path, 10)
    assert [(each["PID"], each["Command"]) for each in rows] == [(9, "[a) S (b]"), (10, "sleep 3600")]
    assert (rows[0]["State"], rows[0]["PPID"], rows[0]["Time"]) == ("S", 1, "00:12:10")
    assert processes(tmp_path, 99) == []


def test_a_process_that_has_no_cgroup_of_its_own(tmp_path):
    process(tmp_path, 10, "0::/\n")
    with pytest.raises(FailedPrecondition, match="no cgroup of its own"):
        processes(tmp_path, 10)
