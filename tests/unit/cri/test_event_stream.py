"""GetContainerEvents over a real socket: numbers in the metadata, a reader that does not read is told what it lost."""

import types

import grpc
import pytest

from orlop.base.supervise import Supervisor
from orlop.cli.client import Stub
from orlop.cri.listener import Listener, Service
from orlop.cri.runtime_service import POSITION, RuntimeService
from orlop.services.events import SUBSCRIBER_EVENTS, EventHub
from orlop.specs.cri_gen import api_pb2 as pb
from orlop.specs.pod import EventType, Sandbox, SandboxConfig, SandboxMetadata, SandboxState


class Events(Service):
    descriptor = pb.DESCRIPTOR.services_by_name["RuntimeService"]
    with_context = RuntimeService.with_context
    GetContainerEvents = RuntimeService.GetContainerEvents

    def __init__(self, hub):
        self._node = types.SimpleNamespace(events=hub)


@pytest.fixture
async def served(tmp_path):
    hub = EventHub()
    supervisor = Supervisor("test")
    listener = Listener((Events(hub),), f"unix://{tmp_path}/orlop.sock", supervisor)
    await listener.start()
    listener.open_gate()
    async with grpc.aio.insecure_channel(f"unix://{tmp_path}/orlop.sock") as channel:
        yield hub, Stub(channel, Events.descriptor)
    await listener.stop()
    await supervisor.close()


def position_in(metadata):
    return dict(metadata)[POSITION]


async def test_a_subscriber_knows_where_it_begins_and_an_unread_stream_ends_with_what_was_lost(served):
    hub, runtime = served
    hub.subscribe().close()
    hub.publish(EventType.CREATED, "before", None, ())
    call = runtime.GetContainerEvents(pb.GetEventsRequest())
    assert position_in(await call.initial_metadata()) == f"{hub.instance}/1"
    # Large, so that the transport's buffers do not take them all.
    config = SandboxConfig(metadata=SandboxMetadata(name="p"), annotations={"a": "x" * 20_000})
    sandbox = Sandbox(id="s", config=config, state=SandboxState.READY, created_at=1)
    for number in range(2 * SUBSCRIBER_EVENTS):
        hub.publish(EventType.STARTED, str(number), sandbox, ())
    seen = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in call:
            seen.append(int(event.container_id))
            # A reader that goes on reading does not get what was dropped, and nothing after it.
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert seen == list(range(len(seen)))
    assert len(seen) < 2 * SUBSCRIBER_EVENTS
    assert f"after number {1 + len(seen)} were dropped" in caught.value.details()
    assert position_in(await call.trailing_metadata()) == f"{hub.instance}/{1 + len(seen)}"
    assert hub.statistics()["subscribers"] == 0


async def test_a_client_that_goes_away_is_forgotten(served):
    hub, runtime = served
    call = runtime.GetContainerEvents(pb.GetEventsRequest())
    await call.initial_metadata()
    assert hub.statistics()["subscribers"] == 1
    call.cancel()
    again = runtime.GetContainerEvents(pb.GetEventsRequest())
    await again.initial_metadata()
    for _ in range(200):
        if hub.statistics()["subscribers"] == 1:
            break
        hub.publish(EventType.STARTED, "c", None, ())
        await anext(aiter(again))
    assert hub.statistics()["subscribers"] == 1
    again.cancel()
