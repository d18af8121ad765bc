"""Rows as readers see them, the same object as long as the row is the same: what front ends made of it stays right, too.

Test: tests/unit/services/test_views.py.
"""

from __future__ import annotations

from orlop.base.memo import Memo
from orlop.metadata.pods import ContainerRow, PodStore, SandboxRow
from orlop.specs.pod import Container, Sandbox


class Views:
    """The views of all rows, without verbose facts."""

    def __init__(self, pods: PodStore) -> None:
        self._sandboxes: Memo[SandboxRow, Sandbox] = Memo(_sandbox, pods.has_sandbox)
        self._containers: Memo[ContainerRow, Container] = Memo(_container, pods.has_container)

    def sandbox(self, row: SandboxRow) -> Sandbox:
        return self._sandboxes.of(row.id, row)

    def container(self, row: ContainerRow) -> Container:
        return self._containers.of(row.id, row)


def _sandbox(row: SandboxRow) -> Sandbox:
    return Sandbox(
        id=row.id,
        config=row.config,
        state=row.state,
        created_at=row.created_at,
        runtime_handler=row.handler,
        ips=row.ips,
        reason=row.reason,
    )


def _container(row: ContainerRow) -> Container:
    return Container(
        id=row.id,
        sandbox_id=row.sandbox_id,
        config=row.config,
        state=row.state,
        created_at=row.created_at or row.reserved_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        reason=row.reason,
        message=row.message,
        image_id=row.image_id,
        log_path=row.log_path,
        user=row.user,
        stop_signal=row.stop_signal,
        resources=row.resources,
        mount_digests=row.mount_digests,
    )
