"""orlop top: the processes of a container, those of its execs as well. Test: tests/unit/cli/test_top.py, tests/cri/test_cli_human.py.

They are found by their cgroup, which no process can leave, and read from this machine's /proc: the numbers are the host's.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import time
from pathlib import Path
from typing import Any, Final

from orlop.base.errors import FailedPrecondition
from orlop.cli import show
from orlop.cli.client import Client
from orlop.cli.find import find_container
from orlop.specs.cri_gen import api_pb2 as pb

COLUMNS: Final = {
    "UID": "UID",
    "PID": "PID",
    "PPID": "PPID",
    "S": "State",
    "RSS": "RSS",
    "STIME": "STime",
    "TIME": "Time",
    "CMD": "Command",
}
PROC: Final = Path("/proc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER")
    show.add_format(parser)


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:
        container = find_container(client, options.container)
        answer = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container.id, verbose=True))
        if answer.status.state != pb.CONTAINER_RUNNING:
            raise FailedPrecondition(f"container {container.id[:12]}: does not run")
        first = int(json.loads(answer.info["info"])["pid"])
    rows = processes(PROC, first)
    if not rows:
        raise FailedPrecondition(f"container {container.id[:12]}: has just ended")
    show.show(rows, COLUMNS, options.format)
    return 0


def cgroup_of(text: str) -> tuple[str, str]:
    """Return (controllers, path) of the line of /proc/PID/cgroup to go by: version 1's memory or pids, else version 2's."""
    lines = [line.split(":", 2) for line in text.splitlines()]
    for wanted in ("memory", "pids", ""):
        for _, controllers, path in lines:
            if wanted in controllers.split(","):
                return controllers, path
    return "", ""


def processes(proc: Path, first: int) -> list[dict[str, Any]]:
    """Return the processes of the cgroup of process ``first`` and of those below it; none when it is gone."""
    try:
        controllers, path = cgroup_of((proc / str(first) / "cgroup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return []
    if path in ("", "/"):
        raise FailedPrecondition(f"process {first}: is in no cgroup of its own")
    boot = time.time() - float((proc / "uptime").read_text().split()[0])
    rows = []
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdigit()):
        directory = proc / str(pid)
        try:
            its = cgroup_of((directory / "cgroup").read_text())
            if its[0] == controllers and (its[1] == path or its[1].startswith(f"{path}/")):
                rows.append(_row(directory, pid, boot))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return rows


def _row(directory: Path, pid: int, boot: float) -> dict[str, Any]:
    # The name stands in brackets and may hold anything, brackets too.
    name, _, rest = (directory / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
    parts = rest.split()
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = (int(parts[11]) + int(parts[12])) // ticks
    command = (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return {
        "UID": _user(directory.stat().st_uid),
        "PID": pid,
        "PPID": int(parts[1]),
        "State": parts[0],
        "RSS": int(parts[21]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        "STime": time.strftime("%H:%M", time.localtime(boot + int(parts[19]) / ticks)),
        "Time": f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        "Command": command or f"[{name}]",
    }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
