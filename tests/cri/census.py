"""What exists on this machine that a runtime could leave behind: counted before and after, and named in words when it differs.

Counts what belongs to nobody else: mounts below or of the given directories, processes of the runtime, cgroups with the given ids
or names, links of the bridge, network namespaces, nft tables, files of the state directory. Owns nothing; removes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
DAEMON_MARK = "-m orlop.daemon "
SETTLE_SECONDS = 10.0


def mounts(directories: Iterable[Path]) -> frozenset[str]:
    """Mount points below the directories, or overlay mounts that name them, of this mount namespace."""
    names = [str(each) for each in directories]
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if any(name in line for name in names):
            found.add(line.split(" ", 5)[4])
    return frozenset(found)


def processes(marks: Iterable[str]) -> frozenset[str]:
    """Processes whose command line has one of the marks (directories, sockets), as ``pid command``."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if line.startswith("orlop-monitor"):
                # It names its pod only; its directory is its fd 3.
                line += os.readlink(entry / "fd/3")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(mark in line for mark in marks):
            found.add(f"{entry.name} {line[:160]}")
    return frozenset(found)


def cgroups(marks: Iterable[str]) -> frozenset[str]:
    """Cgroup directories, in every hierarchy, with a mark in their path."""
    found = set()
    for directory, _, _ in os.walk(CGROUP_ROOT):
        if any(mark in directory for mark in marks):
            found.add(directory)
    return frozenset(found)


def links(bridge: str) -> frozenset[str]:
    """The bridge and what hangs on it."""
    done = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)
    return frozenset(each["ifname"] for each in listed if each.get("master") == bridge)


def network_namespaces(marks: Iterable[str]) -> frozenset[str]:
    """Inodes of the network namespaces that processes with a mark live in, and names below /run/netns."""
    found = set()
    for each in processes(marks):
        try:
            found.add(os.readlink(f"/proc/{each.split()[0]}/ns/net"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    own = os.readlink("/proc/self/ns/net")
    return frozenset(found - {own})


def rules(marks: Iterable[str]) -> frozenset[str]:
    """nft rules and set elements that mention a mark (an address of the subnet, the bridge's name)."""
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    return frozenset(line.strip() for line in done.stdout.splitlines() if any(mark in line for mark in marks))


def files(directory: Path, ignored: Iterable[str] = ()) -> frozenset[str]:
    """Files below a directory, as relative paths. What a background removal takes away during the walk is not there."""
    found = set()
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if name not in ignored]
        found.update(
            os.path.relpath(os.path.join(parent, name), directory)
            for name in (*directories, *names)
            if name not in ignored
        )
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    mounts: frozenset[str] = frozenset()
    processes: frozenset[str] = frozenset()
    cgroups: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    network_namespaces: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    def added(self, before: Census) -> dict[str, list[str]]:
        """What is here and was not before, by kind."""
        found = {each.name: sorted(getattr(self, each.name) - getattr(before, each.name)) for each in fields(self)}
        return {kind: names for kind, names in found.items() if names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What to look at: a runtime's directories, its bridge, and marks that its processes, cgroups and rules carry."""

    directories: tuple[Path, ...]
    bridge: str = ""
    rule_marks: tuple[str, ...] = ()
    cgroup_marks: tuple[str, ...] = ()
    files_of: Path | None = None
    ignored_files: tuple[str, ...] = field(default=())

    def take(self) -> Census:
        marks = [str(each) for each in self.directories]
        return Census(
            mounts=mounts(self.directories),
            # The daemon itself may have been started anew meanwhile: it is no leftover of its pods.
            processes=frozenset(each for each in processes(marks) if DAEMON_MARK not in each),
            cgroups=cgroups(self.cgroup_marks),
            links=links(self.bridge) if self.bridge else frozenset(),
            network_namespaces=network_namespaces(marks),
            rules=rules(self.rule_marks) if self.rule_marks else frozenset(),
            files=files(self.files_of, self.ignored_files) if self.files_of else frozenset(),
        )

    def settle(self, before: Census, seconds: float = SETTLE_SECONDS) -> dict[str, list[str]]:
        """Wait until nothing is left beyond ``before``; return what still is at the deadline."""
        deadline = time.monotonic() + seconds
        while (left := self.take().added(before)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def proportional_bytes(pid: int) -> int:
    """PSS of a process: shared pages are divided among those that share them. 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
