"""What the writable layers of containers take, counted in a thread and not more often than it is worth.

Kubelet asks every ten seconds; an answer says when it was counted. Test: tests/unit/services/containers/test_layer_usage.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from orlop.base.errors import NotFound
from orlop.base.ids import ContainerId
from orlop.base.paced import Paced
from orlop.snapshots.overlay import Usage
from orlop.specs.pod import FilesystemStats

LEAST_NS: Final = 5_000_000_000


class LayerUsages:
    """The last count of each writable layer."""

    def __init__(self, count: Callable[[ContainerId], Usage], mountpoint: str) -> None:
        """``count`` walks one layer, may block, raises NotFound; ``mountpoint`` names the file system that they are on."""
        self._count = count
        self._mountpoint = mountpoint
        self._paced: Paced[FilesystemStats] = Paced(LEAST_NS)

    async def of(self, container_ids: Sequence[ContainerId]) -> dict[ContainerId, FilesystemStats]:
        """Return the usage of those that are there; those whose count is old are counted first, in one thread."""
        now = time.time_ns()
        found: dict[ContainerId, FilesystemStats] = {}
        old: list[ContainerId] = []
        for each in container_ids:
            taken = self._paced.fresh(each, now)
            if taken is None:
                old.append(each)
            else:
                found[each] = taken.value
        if old:
            for container_id, stats, cost in await asyncio.to_thread(self._count_all, old):
                self._paced.put(container_id, stats, stats.timestamp, cost)
                found[container_id] = stats
        return found

    def _count_all(self, container_ids: Sequence[ContainerId]) -> list[tuple[ContainerId, FilesystemStats, int]]:
        counted = []
        for each in container_ids:
            began = time.perf_counter_ns()
            at = time.time_ns()
            try:
                usage = self._count(each)
            except NotFound:
                continue  # removed meanwhile
            stats = FilesystemStats(
                timestamp=at, mountpoint=self._mountpoint, used_bytes=usage.bytes, inodes_used=usage.inodes
            )
            counted.append((each, stats, time.perf_counter_ns() - began))
        return counted

    def forget(self, container_id: ContainerId) -> None:
        """Drop what is known of a layer that is removed."""
        self._paced.forget(container_id)
