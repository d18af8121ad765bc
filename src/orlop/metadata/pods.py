"""The pods database: what was asked for and what has happened, under ``--state``. Facts are stored; states are derived.

    meta        key TEXT PRIMARY KEY, value TEXT           boot_id: rows of another boot are history
    sandboxes   id TEXT PRIMARY KEY, name TEXT UNIQUE, facts BLOB     facts = JSON of SandboxRow
    containers  id TEXT PRIMARY KEY, name TEXT UNIQUE, sandbox_id TEXT, facts BLOB     facts = JSON of ContainerRow

synchronous=OFF: the database must survive the daemon's death at any moment (a write is in the page cache when commit returns),
not the machine's: after a boot no pod of it runs. A commit costs tens of microseconds, so calls are made in the event loop.
All rows are also kept in memory; readers never touch the disk. This module never talks to monitors or the kernel.
Test: tests/unit/metadata/test_pods.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from orlop.base.errors import AlreadyExists, NotFound
from orlop.base.ids import ContainerId, SandboxId
from orlop.metadata.db import in_words
from orlop.specs.pod import ContainerConfig, ContainerState, ContainerUser, LinuxResources, SandboxConfig, SandboxState

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sandboxes (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, facts BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS containers (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, sandbox_id TEXT NOT NULL REFERENCES sandboxes (id), facts BLOB NOT NULL
) STRICT;
"""


class SandboxRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts of a sandbox. ``ready_at`` is written last when it is made, ``stopped_at`` last when it is stopped."""

    id: SandboxId
    name: str
    config: SandboxConfig
    handler: str
    """As it was asked for; "" is the default one."""
    created_at: int
    ready_at: int = 0
    stopped_at: int = 0
    reason: str = ""
    monitor_pid: int = 0
    monitor_start: int = 0
    made_by: str = "orlop"
    """Which handler "" was when the sandbox was made, or the one asked for."""
    host_network: bool = False
    network: msgspec.Raw = msgspec.Raw(b"null")
    """JSON of network.attachment.Attachment; the store does not look inside."""
    ips: tuple[str, ...] = ()
    cgroup_parent: str = ""
    cgroup_parent_made: bool = False
    timings: dict[str, float] = {}
    """Milliseconds of each stage of RunPodSandbox."""

    @property
    def state(self) -> SandboxState:
        """READY from ready_at until stopped_at."""
        return SandboxState.READY if self.ready_at and not self.stopped_at else SandboxState.NOTREADY


class ContainerRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts of a container; each time is written after what it tells has happened."""

    id: ContainerId
    name: str
    sandbox_id: SandboxId
    config: ContainerConfig
    reserved_at: int
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    pid: int = 0
    start_time: int = 0
    image_id: str = ""
    layers: tuple[str, ...] = ()
    """diffIDs of the image and of mounted images; they are in use while the row exists."""
    log_path: str = ""
    user: ContainerUser | None = None
    stop_signal: int = 15
    resources: LinuxResources = LinuxResources()
    cgroup: str = ""
    mount_digests: dict[str, str] = {}
    spec: msgspec.Raw = msgspec.Raw(b"null")
    """The OCI runtime spec as compiled, for exec and for `orlop inspect`."""
    timings: dict[str, float] = {}

    @property
    def state(self) -> ContainerState:
        if self.finished_at:
            return ContainerState.EXITED
        if self.started_at:
            return ContainerState.RUNNING
        return ContainerState.CREATED if self.created_at else ContainerState.UNKNOWN


class PodStore:
    """The rows, in memory and on disk; every change is one transaction, on disk before it is seen in memory."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=32)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON;" + SCHEMA)
        self._encoder = msgspec.json.Encoder()
        self._sandboxes: dict[SandboxId, SandboxRow] = {}
        self._containers: dict[ContainerId, ContainerRow] = {}
        self._sandbox_names: dict[str, SandboxId] = {}
        self._container_names: dict[str, ContainerId] = {}
        self._of_sandbox: dict[SandboxId, dict[ContainerId, None]] = {}
        self.revision = 0
        """Rises with every change of a row: what was made of all rows is right as long as it stands."""
        sandbox_decoder = msgspec.json.Decoder(SandboxRow)
        container_decoder = msgspec.json.Decoder(ContainerRow)
        for (facts,) in self._db.execute("SELECT facts FROM sandboxes ORDER BY rowid"):
            self._remember_sandbox(sandbox_decoder.decode(facts))
        for (facts,) in self._db.execute("SELECT facts FROM containers ORDER BY rowid"):
            self._remember_container(container_decoder.decode(facts))

    def close(self) -> None:
        self._db.close()

    # boot

    def boot_id(self) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'boot_id'").fetchone()
        return str(row[0]) if row else ""

    def set_boot_id(self, boot_id: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('boot_id', ?)", (boot_id,))

    def _write(self, statement: str, values: Sequence[str | bytes]) -> None:
        """Raises ResourceExhausted when the state directory is full; then memory is as the disk is: unchanged."""
        with in_words("pod database"):
            self._db.execute(statement, values)

    # sandboxes

    def add_sandbox(self, row: SandboxRow) -> None:
        """Reserve id and name; raises AlreadyExists naming the sandbox that has the name."""
        if (taken := self._sandbox_names.get(row.name)) is not None:
            raise AlreadyExists(f"sandbox {row.name}: name is taken by sandbox {taken}")
        self._write("INSERT INTO sandboxes VALUES (?, ?, ?)", (row.id, row.name, self._encoder.encode(row)))
        self._remember_sandbox(row)

    def put_sandbox(self, row: SandboxRow) -> None:
        """Replace the facts of an existing sandbox."""
        self._write("UPDATE sandboxes SET facts = ? WHERE id = ?", (self._encoder.encode(row), row.id))
        self._sandboxes[row.id] = row
        self.revision += 1

    def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        row = self._sandboxes.get(sandbox_id)
        if row is None:
            return
        self._write("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))
        del self._sandboxes[sandbox_id]
        self.revision += 1
        del self._sandbox_names[row.name]
        self._of_sandbox.pop(sandbox_id, None)

    def sandbox(self, sandbox_id: str) -> SandboxRow:
        """Return the row of an id or of an unambiguous id prefix; raises NotFound."""
        row = self._sandboxes.get(SandboxId(sandbox_id))
        if row is None:
            row = _by_prefix(self._sandboxes, sandbox_id)
        if row is None:
            raise NotFound(f"sandbox {sandbox_id or '(empty id)'}: not found")
        return row

    def has_sandbox(self, sandbox_id: str) -> bool:
        """Say whether a full id has a row."""
        return sandbox_id in self._sandboxes

    def sandbox_named(self, name: str) -> SandboxRow | None:
        sandbox_id = self._sandbox_names.get(name)
        return None if sandbox_id is None else self._sandboxes[sandbox_id]

    def sandboxes(self) -> Iterator[SandboxRow]:
        return iter(tuple(self._sandboxes.values()))

    # containers

    def add_container(self, row: ContainerRow) -> None:
        """Reserve id and name within the sandbox; raises AlreadyExists naming the container that has the name."""
        if (taken := self._container_names.get(row.name)) is not None:
            raise AlreadyExists(f"container {row.config.metadata.name}: name is taken by container {taken}")
        values = (row.id, row.name, row.sandbox_id, self._encoder.encode(row))
        self._write("INSERT INTO containers VALUES (?, ?, ?, ?)", values)
        self._remember_container(row)

    def put_container(self, row: ContainerRow) -> None:
        self._write("UPDATE containers SET facts = ? WHERE id = ?", (self._encoder.encode(row), row.id))
        self._containers[row.id] = row
        self.revision += 1

    def remove_container(self, container_id: ContainerId) -> None:
        row = self._containers.get(container_id)
        if row is None:
            return
        self._write("DELETE FROM containers WHERE id = ?", (container_id,))
        del self._containers[container_id]
        self.revision += 1
        del self._container_names[row.name]
        self._of_sandbox.get(row.sandbox_id, {}).pop(container_id, None)

    def container(self, container_id: str) -> ContainerRow:
        """Return the row of an id or of an unambiguous id prefix; raises NotFound."""
        row = self._containers.get(ContainerId(container_id))
        if row is None:
            row = _by_prefix(self._containers, container_id)
        if row is None:
            raise NotFound(f"container {container_id or '(empty id)'}: not found")
        return row

    def has_container(self, container_id: str) -> bool:
        """Say whether a full id has a row."""
        return container_id in self._containers

    def container_named(self, name: str) -> ContainerRow | None:
        container_id = self._container_names.get(name)
        return None if container_id is None else self._containers[container_id]

    def containers(self) -> Iterator[ContainerRow]:
        return iter(tuple(self._containers.values()))

    def containers_of(self, sandbox_id: SandboxId) -> tuple[ContainerRow, ...]:
        return tuple(self._containers[each] for each in self._of_sandbox.get(sandbox_id, ()))

    def layers_in_use(self) -> set[str]:
        """diffIDs that a container's root or image mount stands on."""
        return {layer for row in self._containers.values() for layer in row.layers}

    def statistics(self) -> dict[str, int]:
        return {"sandboxes": len(self._sandboxes), "containers": len(self._containers)}

    def _remember_sandbox(self, row: SandboxRow) -> None:
        self._sandboxes[row.id] = row
        self.revision += 1
        self._sandbox_names[row.name] = row.id
        self._of_sandbox.setdefault(row.id, {})

    def _remember_container(self, row: ContainerRow) -> None:
        self._containers[row.id] = row
        self.revision += 1
        self._container_names[row.name] = row.id
        self._of_sandbox.setdefault(row.sandbox_id, {})[row.id] = None


MIN_PREFIX = 4


K = TypeVar("K", bound=str)
R = TypeVar("R")


def _by_prefix(rows: dict[K, R], prefix: str) -> R | None:
    """Return the only row whose id begins with the prefix, as crictl and docker users expect; None if none or several."""
    if len(prefix) < MIN_PREFIX:
        return None
    found = [row for key, row in rows.items() if key.startswith(prefix)]
    return found[0] if len(found) == 1 else None
