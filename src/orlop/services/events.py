"""Container events: numbered, kept in a short ring, handed to every subscriber; a slow subscriber is told, never waited for.

A subscriber whose queue is full gets its queue emptied and ``lost`` counted: its next event's sequence shows the gap, and the
CRI front end ends the stream so that kubelet relists. This module owns no container state. Test: tests/unit/services/test_events.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from orlop.base.errors import Aborted
from orlop.specs.pod import Container, Event, EventType, Sandbox

RING_EVENTS = 1024
SUBSCRIBER_EVENTS = 4096


class EventHub:
    """Publishes events to subscribers within this process."""

    def __init__(self) -> None:
        self._sequence = 0
        self._ring: deque[Event] = deque(maxlen=RING_EVENTS)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()

    def publish(
        self,
        kind: EventType,
        container_id: str,
        created_at: int,
        sandbox: Sandbox | None,
        containers: tuple[Container, ...],
    ) -> Event:
        """Number an event and hand it to all subscribers; never blocks."""
        self._sequence += 1
        event = Event(
            sequence=self._sequence,
            type=kind,
            container_id=container_id,
            created_at=created_at,
            sandbox=sandbox,
            containers=containers,
        )
        self._ring.append(event)
        for queue in tuple(self._subscribers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._subscribers.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
        return event

    @property
    def wanted(self) -> bool:
        """Whether anybody listens; publishers may skip building statuses when nobody does."""
        return bool(self._subscribers)

    def recent(self) -> tuple[Event, ...]:
        return tuple(self._ring)

    async def subscribe(self) -> AsyncIterator[Event]:
        """Yield events from now on; raises Aborted when this subscriber fell SUBSCRIBER_EVENTS behind."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(SUBSCRIBER_EVENTS)
        self._subscribers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
            raise Aborted(f"event subscriber: more than {SUBSCRIBER_EVENTS} events behind; list and subscribe again")
        finally:
            self._subscribers.discard(queue)

    def statistics(self) -> dict[str, int]:
        return {"published": self._sequence, "subscribers": len(self._subscribers)}
