"""The listener on a real socket: gate, error codes, unimplemented calls, stale sockets, clients that go away."""

import asyncio
import socket
import stat

import grpc
import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.base.supervise import Supervisor
from orlop.cli.client import Stub
from orlop.cri.listener import Listener, Service, socket_path
from orlop.specs.cri_gen import api_pb2


class Runtime(Service):
    descriptor = api_pb2.DESCRIPTOR.services_by_name["RuntimeService"]
    changing = frozenset({"StopPodSandbox"})

    def __init__(self):
        self.released = asyncio.Event()
        self.finished = asyncio.Event()

    async def Version(self, request):
        return api_pb2.VersionResponse(version=request.version, runtime_name="orlop")

    async def PodSandboxStatus(self, request):
        raise NotFound(f"sandbox {request.pod_sandbox_id}: does not exist")

    async def ContainerStatus(self, request):
        raise ZeroDivisionError("a mistake")

    async def StopPodSandbox(self, request):
        await self.released.wait()
        self.finished.set()
        return api_pb2.StopPodSandboxResponse()

    async def GetContainerEvents(self, request):
        for number in range(3):
            yield api_pb2.ContainerEventResponse(container_id=str(number))


@pytest.fixture
async def served(tmp_path):
    supervisor = Supervisor("test")
    service = Runtime()
    listener = Listener((service,), f"unix://{tmp_path}/run/orlop.sock", supervisor)
    await listener.start()
    async with grpc.aio.insecure_channel(f"unix://{tmp_path}/run/orlop.sock") as channel:
        yield listener, service, Stub(channel, Runtime.descriptor)
    await listener.stop()
    await supervisor.close()


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details()


async def test_closed_gate_answers_unavailable(served):
    listener, _, runtime = served
    assert (await refused(runtime.Version(api_pb2.VersionRequest())))[0] == "UNAVAILABLE"
    listener.open_gate()
    assert (await runtime.Version(api_pb2.VersionRequest(version="7"))).version == "7"


async def test_errors_keep_code_and_message(served):
    listener, _, runtime = served
    listener.open_gate()
    request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id="4f2a")
    assert await refused(runtime.PodSandboxStatus(request)) == ("NOT_FOUND", "sandbox 4f2a: does not exist")


async def test_unexpected_errors_are_internal_and_logged(served, caplog):
    listener, _, runtime = served
    listener.open_gate()
    code, details = await refused(runtime.ContainerStatus(api_pb2.ContainerStatusRequest(container_id="c1")))
    assert code == "INTERNAL"
    assert "ZeroDivisionError" in details
    assert "container=c1" in caplog.text
    assert "Traceback" in caplog.text


async def test_calls_without_a_handler_say_so(served):
    listener, _, runtime = served
    listener.open_gate()
    code, details = await refused(runtime.CheckpointPod(api_pb2.CheckpointPodRequest()))
    assert code == "UNIMPLEMENTED"
    assert "CheckpointPod" in details
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in runtime.StreamContainers(api_pb2.StreamContainersRequest()):
            pass
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_streams(served):
    listener, _, runtime = served
    listener.open_gate()
    got = [event.container_id async for event in runtime.GetContainerEvents(api_pb2.GetEventsRequest())]
    assert got == ["0", "1", "2"]


async def test_a_client_that_goes_away_does_not_undo_a_change(served):
    listener, service, runtime = served
    listener.open_gate()
    call = runtime.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id="s"), timeout=0.2)
    assert (await refused(call))[0] == "DEADLINE_EXCEEDED"
    service.released.set()
    await asyncio.wait_for(service.finished.wait(), 5)


async def test_socket_is_for_root_and_its_group(served):
    listener, _, _ = served
    assert stat.S_IMODE(listener.path.stat().st_mode) == 0o660


async def test_a_living_socket_is_not_taken_and_a_stale_one_is(tmp_path):
    path = tmp_path / "s.sock"
    living = socket.socket(socket.AF_UNIX)
    living.bind(str(path))
    living.listen()
    supervisor = Supervisor("test")
    with pytest.raises(FailedPrecondition, match="answers"):
        await Listener((), f"unix://{path}", supervisor).start()
    living.close()
    listener = Listener((), f"unix://{path}", supervisor)
    await listener.start()
    await listener.stop()
    assert not path.exists()


async def test_a_file_in_the_place_of_the_socket_stays(tmp_path):
    path = tmp_path / "s.sock"
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="not a socket"):
        await Listener((), f"unix://{path}", Supervisor("test")).start()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:1", "/run/x.sock", "unix://relative", "unix:///" + "x" * 107])
def test_addresses_that_are_refused(listen):
    with pytest.raises(InvalidArgument, match="listen"):
        socket_path(listen)
