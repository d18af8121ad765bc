import pytest

from orlop.base.errors import Aborted
from orlop.services.events import RING_EVENTS, SUBSCRIBER_EVENTS, EventHub
from orlop.specs.pod import EventType


def publish(hub: EventHub, *names: str) -> None:
    for name in names:
        hub.publish(EventType.CREATED, name, None, ())


async def take(subscription, count: int) -> list[tuple[int, str]]:
    found = []
    async for event in subscription:
        found.append((event.sequence, event.container_id))
        if len(found) == count:
            break
    return found


async def test_every_subscriber_gets_every_event_in_order():
    hub = EventHub()
    hub.subscribe().close()
    publish(hub, "before")
    streams = [hub.subscribe() for _ in range(2)]
    publish(hub, "c1", "c2")
    for stream in streams:
        assert stream.after == 1
        assert await take(stream, 2) == [(2, "c1"), (3, "c2")]
        assert stream.position == 3
        stream.close()
    assert hub.statistics() == {"published": 3, "subscribers": 0}


async def test_created_at_rises_strictly_also_while_the_clock_stands(monkeypatch):
    monkeypatch.setattr("orlop.services.events.time.time_ns", lambda: 1000)
    hub = EventHub()
    stamps = [hub.publish(EventType.STARTED, "c", None, ()).created_at for _ in range(3)]
    assert stamps == [1000, 1001, 1002]


async def test_a_subscriber_that_does_not_read_is_told_what_it_lost_and_nobody_waits_for_it():
    hub = EventHub()
    with hub.subscribe() as slow, hub.subscribe() as quick:
        publish(hub, "first")
        assert await take(slow, 1) == [(1, "first")]
        for number in range(SUBSCRIBER_EVENTS + 3):
            publish(hub, f"c{number}")
            assert await take(quick, 1 + (number == 0)) != []
        with pytest.raises(Aborted, match=f"{SUBSCRIBER_EVENTS + 3} events after number 1 were dropped"):
            await take(slow, 1)
    assert hub.statistics()["subscribers"] == 0


async def test_who_comes_back_in_time_misses_nothing():
    hub = EventHub()
    with hub.subscribe() as first:
        publish(hub, "seen", "missed 1", "missed 2")
        assert await take(first, 1) == [(1, "seen")]
    with hub.subscribe(after=first.position, instance=hub.instance) as again:
        publish(hub, "new")
        assert await take(again, 3) == [(2, "missed 1"), (3, "missed 2"), (4, "new")]


@pytest.mark.parametrize("case", ["too old", "from the future", "of another daemon"])
async def test_who_comes_back_too_late_is_told(case):
    hub = EventHub()
    after, instance = 1, hub.instance
    for number in range(RING_EVENTS + 3):
        publish(hub, str(number))
    if case == "from the future":
        after = RING_EVENTS + 4
    if case == "of another daemon":
        after, instance = RING_EVENTS, "0" * 16
    with pytest.raises(Aborted, match="not kept"):
        hub.subscribe(after=after, instance=instance)


async def test_the_first_subscriber_after_a_start_hears_what_recovery_found_and_later_ones_do_not():
    hub = EventHub()
    publish(hub, "ended while the daemon was away", "ended since")
    with hub.subscribe() as first:
        assert first.after == 0
        assert await take(first, 2) == [(1, "ended while the daemon was away"), (2, "ended since")]
    with hub.subscribe() as second:
        assert second.after == 2


async def test_a_first_subscriber_who_comes_too_late_for_that_begins_now():
    hub = EventHub()
    for number in range(RING_EVENTS + 1):
        publish(hub, str(number))
    with hub.subscribe() as first:
        assert first.after == RING_EVENTS + 1
