import asyncio

import pytest

from orlop.base.errors import Aborted
from orlop.services.events import SUBSCRIBER_EVENTS, EventHub
from orlop.specs.pod import EventType


async def test_every_subscriber_gets_every_event_in_order() -> None:
    hub = EventHub()
    streams = [hub.subscribe() for _ in range(2)]
    firsts = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    hub.publish(EventType.CREATED, "c1", 1, None, ())
    hub.publish(EventType.STARTED, "c1", 2, None, ())
    assert [(await each).sequence for each in firsts] == [1, 1]
    assert [(await anext(stream)).type for stream in streams] == [EventType.STARTED] * 2
    for stream in streams:
        await stream.aclose()
    assert hub.statistics() == {"published": 2, "subscribers": 0}


async def test_a_subscriber_that_does_not_read_is_told_and_does_not_hold_anybody_up() -> None:
    hub = EventHub()
    slow = hub.subscribe()
    first = asyncio.ensure_future(anext(slow))
    await asyncio.sleep(0)
    for number in range(SUBSCRIBER_EVENTS + 2):
        hub.publish(EventType.CREATED, f"c{number}", number, None, ())
    assert not hub.wanted
    with pytest.raises(Aborted, match="events behind"):
        await first
        await anext(slow)
