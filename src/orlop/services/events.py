"""Container events: numbered without gaps, kept in a short ring, handed to every subscriber; a slow subscriber is told, never waited for.

A stream has no silent gap: its first event is the one after ``Subscription.after`` and each next one has the next number. A
subscriber that falls SUBSCRIBER_EVENTS behind loses its queue and gets Aborted: kubelet answers a broken stream with a relist, which
is the resynchronisation (states sent again as events would be taken for new events). One that comes back within the ring's reach
says where it was and misses nothing; the first one after a start of the daemon, which cannot say so, gets what happened since the
start, recovery included. ``created_at`` rises strictly, so it orders events as well. This module owns no container
state. Test: tests/unit/services/test_events.py.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType

from orlop.base.errors import Aborted
from orlop.specs.pod import Container, Event, EventType, Sandbox

RING_EVENTS = 1024
SUBSCRIBER_EVENTS = 4096


class EventHub:
    """Publishes events to subscribers within this process."""

    def __init__(self) -> None:
        self.instance = secrets.token_hex(8)
        """Numbers count from this daemon's start: a number of another instance says nothing here."""
        self._heard = False
        """Whether anybody has ever subscribed."""
        self._sequence = 0
        self._last_created = 0
        self._ring: deque[Event] = deque(maxlen=RING_EVENTS)
        self._subscribers: set[Subscription] = set()

    def publish(
        self, kind: EventType, container_id: str, sandbox: Sandbox | None, containers: tuple[Container, ...]
    ) -> Event:
        """Number an event and hand it to all subscribers; never blocks."""
        self._sequence += 1
        self._last_created = max(time.time_ns(), self._last_created + 1)
        event = Event(
            sequence=self._sequence,
            type=kind,
            container_id=container_id,
            created_at=self._last_created,
            sandbox=sandbox,
            containers=containers,
        )
        self._ring.append(event)
        for each in tuple(self._subscribers):
            each._take(event)
        return event

    def subscribe(self, after: int | None = None, instance: str = "") -> Subscription:
        """Return the events from now on, or those after number ``after`` of ``instance``, from the ring.

        The first subscriber of this instance gets all events since its start as far as they are kept: it was cut off by the end of
        the daemon before, and what recovery found must not pass it by. Raises Aborted when some of those after ``after`` are not
        kept any more: the caller has to list before it subscribes again.
        """
        missed: list[Event] = []
        if after is None and not self._heard and self._ring and self._ring[0].sequence == 1:
            after, instance = 0, self.instance
        self._heard = True
        if after is not None:
            oldest = self._ring[0].sequence if self._ring else self._sequence + 1
            if instance != self.instance or not oldest - 1 <= after <= self._sequence:
                raise Aborted(
                    f"events after {instance}/{after}: are not kept (there are {self.instance}/{oldest} to {self._sequence}); "
                    "list and subscribe anew"
                )
            missed = [event for event in self._ring if event.sequence > after]
        made = Subscription(self, self._sequence if after is None else after, missed)
        self._subscribers.add(made)
        return made

    def statistics(self) -> dict[str, int]:
        return {"published": self._sequence, "subscribers": len(self._subscribers)}


class Subscription:
    """One subscriber's events; ends with Aborted when it fell too far behind. To be closed."""

    def __init__(self, hub: EventHub, after: int, missed: list[Event]) -> None:
        self.after = after
        """The number before that of the first event."""
        self.position = after
        """The number of the event that was handed out last."""
        self._hub = hub
        self._queue: deque[Event] = deque(missed)
        self._filled = asyncio.Event()
        self._lost = 0
        if missed:
            self._filled.set()

    def _take(self, event: Event) -> None:
        if self._lost or len(self._queue) >= SUBSCRIBER_EVENTS:
            self._lost += len(self._queue) + 1
            self._queue.clear()
        else:
            self._queue.append(event)
        self._filled.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            await self._filled.wait()
            while self._queue:
                event = self._queue.popleft()
                self.position = event.sequence
                yield event
            if self._lost:
                raise Aborted(
                    f"event subscriber: fell behind, {self._lost} events after number {self.position} were dropped; "
                    "list and subscribe anew"
                )
            self._filled.clear()

    def close(self) -> None:
        self._hub._subscribers.discard(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
