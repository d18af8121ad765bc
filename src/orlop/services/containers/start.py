"""StartContainer: open the gate at which init waits; success is the exec itself. Test: tests/kernel/services/test_containers.py."""

from __future__ import annotations

import time

import msgspec

from orlop.base import faults
from orlop.base.errors import FailedPrecondition
from orlop.base.stages import Stages
from orlop.monitor.client import MonitorError
from orlop.services.handlers.protocol import ProgramError
from orlop.services.monitors import publish, take_exit
from orlop.services.node import Node
from orlop.services.nri.events import container_starts
from orlop.services.refusals import NOT_STARTED, Refusal, refusal
from orlop.specs.pod import ContainerState, EventType

GATE, STARTED = "container.start.gate", "container.start.started"
faults.declare(GATE, STARTED)


async def start_container(node: Node, container_id: str) -> None:
    """Start a created container.

    Raises NotFound, FailedPrecondition (wrong state, sandbox not ready), InvalidArgument (its command can't be executed), Internal
    (another step failed). After the last two it has ended: StartError, with 127, 126 or 128 as exit code.
    """
    container_id = node.pods.container(container_id).id
    async with node.locks.hold(container_id):
        row = node.pods.container(container_id)
        if row.state is not ContainerState.CREATED:
            raise FailedPrecondition(f"container {row.id}: cannot be started, it is {row.state.name.lower()}")
        sandbox = node.pods.sandbox(row.sandbox_id)
        if not sandbox.ready_at or sandbox.stopped_at:
            raise FailedPrecondition(f"container {row.id}: cannot be started, sandbox {sandbox.id} is not ready")
        pod = node.live.need(row.sandbox_id)
        handler = node.handlers.of(sandbox)
        async with container_starts(node, row):
            stages = Stages()
            pod.starting.add(row.id)
            try:
                started_ns = await handler.start(node, pod, row)
            except (MonitorError, ProgramError, Refusal) as error:
                wrong = refusal(f"container {row.id}", error) if isinstance(error, MonitorError) else None
                wrong = error if isinstance(error, Refusal) else wrong
                row = msgspec.structs.replace(
                    node.pods.container(row.id),
                    started_at=time.time_ns(),
                    finished_at=time.time_ns(),
                    exit_code=NOT_STARTED if wrong is None else wrong.exit_code,
                    reason="StartError",
                    message=str(wrong or error),
                )
                node.pods.put_container(row)
                node.cgroups.remove_container(row.cgroup)
                pod.exit_of(row.id).set()
                publish(node, EventType.STOPPED, row)
                if wrong is not None and wrong is not error:
                    raise wrong from error
                raise
            finally:
                pod.starting.discard(row.id)
            faults.reach(GATE)
            stages.mark("start")
            row = node.pods.container(row.id)
            # A lost monitor may have ended it before this reply was read.
            started_ns = min(started_ns, row.finished_at) if row.finished_at else started_ns
            row = msgspec.structs.replace(row, started_at=started_ns, timings={**row.timings, **stages.milliseconds})
            node.pods.put_container(row)
            publish(node, EventType.STARTED, row)
            faults.reach(STARTED)
        take_exit(node, pod, row.id)
