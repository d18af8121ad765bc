"""Plugins over real sockets: handshake, order, errors, what is slow or breaks the protocol, the gate, split synchronization."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import FailedPrecondition, OrlopError, PermissionDenied
from orlop.base.supervise import Supervisor
from orlop.nri import calls, mux, ttrpc
from orlop.nri.plugin import PluginFailed, split
from orlop.nri.plugins import Plugins
from orlop.nri.stub import Stub
from orlop.specs.nri_gen import nri_pb2 as nri
from orlop.specs.nri_gen import ttrpc_pb2

POD = nri.PodSandbox(id="p", name="pod")
LONG = 30.0


class FakeRuntime:
    def __init__(self) -> None:
        self.known: list[nri.Container] = []
        self.updated: list[tuple[str, str]] = []
        self.evicted: list[tuple[str, str]] = []

    def pods(self) -> Sequence[nri.PodSandbox]:
        return [POD]

    def containers(self) -> Sequence[nri.Container]:
        return list(self.known)

    async def update(self, updates: Sequence[nri.ContainerUpdate], plugin: str) -> list[nri.ContainerUpdate]:
        self.updated += [(plugin, each.container_id) for each in updates]
        return [each for each in updates if each.container_id == "impossible"]

    def evict(self, evictions: Sequence[nri.ContainerEviction], plugin: str) -> None:
        self.evicted += [(plugin, each.container_id) for each in evictions]


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = Supervisor("test")
    yield made
    await made.close()


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
async def plugins(supervisor, runtime) -> AsyncIterator[Plugins]:
    made = Plugins(supervisor, registration_seconds=LONG, request_seconds=LONG)
    made.runtime = runtime
    yield made
    await made.close()


async def connected(plugins: Plugins) -> tuple[asyncio.Task[bool], socket.socket]:
    """A plugin without anybody behind it yet: the join that waits for it, and its end of the connection."""
    ours, theirs = socket.socketpair()
    plugin = plugins.new_plugin()
    for each in (ours, theirs):
        each.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: plugin.connection, sock=ours)
    return asyncio.ensure_future(plugins.join(plugin)), theirs


async def joined(
    plugins: Plugins, handlers: object, index: str = "10", base: str = "test", policy: nri.FailurePolicy | None = None
) -> Stub:
    join, theirs = await connected(plugins)
    stub = Stub(handlers, index=index, base=base, policy=policy)
    await asyncio.get_running_loop().create_unix_connection(lambda: stub.connection, sock=theirs)
    request = nri.RegisterPluginRequest(plugin_name=base, plugin_idx=index)
    await stub.connection.call(calls.RUNTIME_SERVICE, "RegisterPlugin", request, nri.Empty, LONG)
    assert await join
    return stub


def in_a_hurry(plugins: Plugins, name: str, seconds: float = 0.05) -> None:
    """Shorten the time of one plugin only: the others' answers must not depend on the machine's load."""
    for plugin in plugins._plugins:
        if plugin.name == name:
            plugin._request_seconds = seconds


class Recorder:
    def __init__(self, name: str = "", log: list[str] | None = None) -> None:
        self.name = name
        self.log: list[str] = [] if log is None else log

    def RunPodSandbox(self, request: nri.RunPodSandboxRequest) -> None:
        self.log.append(f"{self.name}run {request.pod.id}")

    def CreateContainer(self, request: nri.CreateContainerRequest) -> nri.CreateContainerResponse:
        self.log.append(f"{self.name}create {request.container.id} {list(request.container.env)}")
        return nri.CreateContainerResponse(
            adjust=nri.ContainerAdjustment(env=[nri.KeyValue(key=f"BY{self.name.strip()}", value="1")])
        )


async def test_plugins_are_asked_in_order_of_their_indices(plugins):
    log: list[str] = []
    for index in ("20", "05", "10"):
        await joined(plugins, Recorder(f"{index} ", log), index)
    assert plugins.names() == ("05-test", "10-test", "20-test")
    await plugins.tell(calls.RUN_POD, nri.RunPodSandboxRequest(pod=POD))
    assert log == ["05 run p", "10 run p", "20 run p"]
    made = await plugins.create(POD, nri.Container(id="c"))
    assert [each.key for each in made.adjust.env] == ["BY05", "BY10", "BY20"]
    assert log[-1] == "20 create c ['BY05=1', 'BY10=1']"
    assert made.plugins == ("05-test", "10-test", "20-test")


async def test_only_what_is_subscribed_is_called(plugins):
    recorder = Recorder()
    await joined(plugins, recorder)
    await plugins.tell(calls.STOP_POD, nri.StopPodSandboxRequest(pod=POD))
    assert recorder.log == []
    assert plugins.active


async def test_an_error_fails_the_call_and_leaves_the_plugin(plugins):
    class Refuses:
        def RunPodSandbox(self, _: object) -> None:
            raise ValueError("not this one")

    await joined(plugins, Refuses())
    with pytest.raises(PluginFailed, match=r"nri plugin 10-test: RunPodSandbox: ValueError: not this one"):
        await plugins.tell(calls.RUN_POD, nri.RunPodSandboxRequest(pod=POD))
    await plugins.tell_all(calls.RUN_POD, nri.RunPodSandboxRequest(pod=POD))
    assert plugins.active


async def test_a_slow_plugin_is_cut_off_and_the_call_goes_on(supervisor, runtime):
    plugins = Plugins(supervisor, registration_seconds=LONG, request_seconds=LONG)
    plugins.runtime = runtime
    never = asyncio.Event()

    class Slow:
        async def RunPodSandbox(self, _: object) -> None:
            await never.wait()

    log: list[str] = []
    stub = await joined(plugins, Slow(), "10")
    in_a_hurry(plugins, "10-test")
    await joined(plugins, Recorder("", log), "20")
    await plugins.tell(calls.RUN_POD, nri.RunPodSandboxRequest(pod=POD))
    assert log == ["run p"], "the plugin behind it was asked"
    await stub.connection.closed.wait()
    while len(plugins.names()) > 1:
        await asyncio.sleep(0)
    assert plugins.names() == ("20-test",)
    await plugins.close()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("fail", [False, True])
async def test_the_plugins_own_policy_decides_what_a_late_answer_means(supervisor, runtime, fail, keep):
    plugins = Plugins(supervisor, registration_seconds=LONG, request_seconds=LONG)
    plugins.runtime = runtime
    never = asyncio.Event()

    class Slow:
        async def RunPodSandbox(self, _: object) -> None:
            await never.wait()

    policy = nri.FailurePolicy(fail_request=fail, keep_connected=keep)
    stub = await joined(plugins, Slow(), policy=policy)
    in_a_hurry(plugins, "10-test")
    request = nri.RunPodSandboxRequest(pod=POD)
    with pytest.raises(PluginFailed, match="no answer to RunPodSandbox") if fail else contextlib.nullcontext():
        await plugins.tell(calls.RUN_POD, request)
    if keep:
        never.set()
        in_a_hurry(plugins, "10-test", LONG)
        await plugins.tell(calls.RUN_POD, request)
        assert plugins.active
    else:
        await stub.connection.closed.wait()
        # One that is gone fails nothing, whatever its policy was.
        await plugins.tell(calls.RUN_POD, request)
    await plugins.close()


async def test_a_plugin_that_dies_in_a_call_is_as_if_it_had_not_been_there(plugins):
    class Dies:
        def CreateContainer(self, _: object) -> None:
            stub.connection.close("gone")

    stub = await joined(plugins, Dies())
    made = await plugins.create(POD, nri.Container(id="c"))
    assert made.plugins == ()


async def test_without_registration_there_is_a_limit(supervisor, runtime):
    plugins = Plugins(supervisor, registration_seconds=0.05, request_seconds=LONG)
    plugins.runtime = runtime
    join, theirs = await connected(plugins)
    assert not await join
    assert await asyncio.get_running_loop().sock_recv(theirs, 10) == b"", "and the connection is closed"
    theirs.close()


@pytest.mark.parametrize(
    ("index", "base", "word"),
    [("1", "a", "two digits"), ("xx", "a", "two digits"), ("10", "", "name"), ("10", "a/b", "name")],
)
async def test_a_plugin_says_who_it_is_or_is_refused(plugins, index, base, word):
    join, theirs = await connected(plugins)
    stub = Stub(Recorder())
    await asyncio.get_running_loop().create_unix_connection(lambda: stub.connection, sock=theirs)
    request = nri.RegisterPluginRequest(plugin_name=base, plugin_idx=index)
    with pytest.raises(ttrpc.CallRefused, match=word):
        await stub.connection.call(calls.RUNTIME_SERVICE, "RegisterPlugin", request, nri.Empty, LONG)
    stub.connection.close("done")
    assert not await join


GARBAGE = [
    b"\xff" * 64,
    mux.frames(mux.RUNTIME_STREAM, ttrpc.encode(ttrpc.Frame(1, 7, 0, b""))),
    mux.frames(mux.RUNTIME_STREAM, ttrpc.encode(ttrpc.Frame(2, ttrpc.REQUEST, 0, b""))),
    mux.frames(mux.RUNTIME_STREAM, ttrpc.encode(ttrpc.Frame(1, ttrpc.REQUEST, 0, b"\xff\xff"))),
    mux.frames(
        mux.RUNTIME_STREAM, ttrpc.encode(ttrpc.Frame(1, ttrpc.REQUEST, 0, b"")) * (limits.NRI_CALLS_AT_ONCE + 1)
    ),
]


@pytest.mark.parametrize("noise", GARBAGE, ids=["trunk", "type", "even", "message", "repeated"])
async def test_who_breaks_the_protocol_is_cut_off(plugins, noise):
    join, theirs = await connected(plugins)
    with contextlib.suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(theirs, noise)
    assert not await join
    assert not plugins.active
    theirs.close()


async def test_too_many_calls_at_once_end_the_connection(plugins, runtime):
    """Each waits for a runtime that does not answer."""
    hang = asyncio.Event()

    async def update(updates: object, plugin: str) -> list[nri.ContainerUpdate]:
        await hang.wait()
        return []

    stub = await joined(plugins, Recorder())
    runtime.update = update
    asked = [asyncio.ensure_future(stub.update([])) for _ in range(limits.NRI_CALLS_AT_ONCE + 1)]
    for each in asyncio.as_completed(asked):
        with pytest.raises(OrlopError):
            await each
    assert stub.connection.closed.is_set()


async def test_who_asks_and_never_reads_the_answers_is_cut_off(plugins, runtime):
    """Its answers are kept for it only up to a limit."""
    big = nri.ContainerUpdate(container_id="x" * (1 << 20))

    async def update(updates: object, plugin: str) -> list[nri.ContainerUpdate]:
        return [big]

    runtime.update = update
    join, theirs = await connected(plugins)
    loop = asyncio.get_running_loop()

    def call(stream: int, method: str, payload: bytes) -> bytes:
        request = ttrpc_pb2.Request(service=calls.RUNTIME_SERVICE, method=method, payload=payload)
        frame = ttrpc.encode(ttrpc.Frame(stream, ttrpc.REQUEST, 0, request.SerializeToString()))
        return mux.frames(mux.RUNTIME_STREAM, frame)

    registration = nri.RegisterPluginRequest(plugin_name="deaf", plugin_idx="01").SerializeToString()
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(theirs, call(1, "RegisterPlugin", registration))
        for stream in range(3, 203, 2):
            await loop.sock_sendall(theirs, call(stream, "UpdateContainers", b""))
    assert not await join, "the connection is gone before it has answered Configure"
    theirs.close()


FRAMES = st.builds(
    lambda stream, kind, flags, payload: ttrpc.encode(ttrpc.Frame(stream, kind, flags, payload)),
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 7),
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda method, payload: ttrpc_pb2.Request(
                service=calls.RUNTIME_SERVICE, method=method, payload=payload
            ).SerializeToString(),
            st.sampled_from(["RegisterPlugin", "UpdateContainers", ""]),
            st.binary(max_size=40),
        ),
    ),
)
PIECES = st.lists(st.one_of(st.binary(max_size=60), st.builds(mux.frames, st.integers(0, 3), FRAMES)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(PIECES)
def test_whatever_a_plugin_sends_the_connection_ends_in_words_or_lives(pieces):
    async def feed() -> None:
        supervisor = Supervisor("fuzz")
        plugins = Plugins(supervisor, registration_seconds=LONG, request_seconds=LONG)
        plugins.runtime = FakeRuntime()
        plugin = plugins.new_plugin()
        for piece in pieces:
            plugin.connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert plugin.connection._serving <= limits.NRI_CALLS_AT_ONCE
        await supervisor.close()

    asyncio.run(feed())


async def test_validators_reject_and_a_lost_one_has_not_agreed(plugins):
    seen: list[nri.ValidateContainerAdjustmentRequest] = []

    class Validator:
        answer = nri.ValidateContainerAdjustmentResponse()
        dies = False

        def ValidateContainerAdjustment(self, request: nri.ValidateContainerAdjustmentRequest) -> object:
            seen.append(request)
            if self.dies:
                stub.connection.close("gone")
            return self.answer

    await joined(plugins, Recorder(), "10")
    validator = Validator()
    stub = await joined(plugins, validator, "90", "guard")
    assert (await plugins.create(POD, nri.Container(id="c", env=["A=1"]))).plugins == ("10-test",)
    (request,) = seen
    assert list(request.container.env) == ["A=1"], "the container as it was"
    assert [each.key for each in request.adjust.env] == ["BY"]
    assert request.owners.owners["c"].compound[nri.Field.Env].owners["BY"] == "10-test"
    assert [(each.index, each.name) for each in request.plugins] == [("10", "test"), ("90", "guard")]
    validator.answer = nri.ValidateContainerAdjustmentResponse(reject=True, reason="too much")
    with pytest.raises(PermissionDenied, match="90-guard: rejects the adjustment: too much"):
        await plugins.create(POD, nri.Container(id="c"))
    validator.dies = True
    with pytest.raises(PermissionDenied, match="90-guard: was cut off before"):
        await plugins.create(POD, nri.Container(id="c"))


async def test_an_old_plugin_hears_through_state_change(plugins):
    heard: list[tuple[int, str, str]] = []

    class Old:
        """Answers UNIMPLEMENTED to the calls of their own, as the stub of 0.11 does."""

        def StateChange(self, event: nri.StateChangeEvent) -> None:
            heard.append((event.event, event.pod.id, event.container.id))

    stub = await joined(plugins, Old())
    assert stub.events == 0, "which means all"
    await plugins.tell(calls.RUN_POD, nri.RunPodSandboxRequest(pod=POD))
    await plugins.tell(calls.START, nri.StartContainerRequest(pod=POD, container=nri.Container(id="c")))
    assert heard == [(nri.RUN_POD_SANDBOX, "p", ""), (nri.START_CONTAINER, "p", "c")]
    with pytest.raises(PluginFailed, match="UpdatePodSandbox"):
        await plugins.tell(calls.UPDATE_POD, nri.UpdatePodSandboxRequest(pod=POD))


async def test_updates_and_evictions_at_any_time(plugins, runtime):
    stub = await joined(plugins, Recorder())
    updates = [nri.ContainerUpdate(container_id=name) for name in ("a", "impossible")]
    failed = await stub.update(updates, [nri.ContainerEviction(container_id="b")])
    assert [each.container_id for each in failed] == ["impossible"]
    assert runtime.updated == [("10-test", "a"), ("10-test", "impossible")]
    assert runtime.evicted == [("10-test", "b")]


async def test_no_container_is_lost_while_a_plugin_is_synchronized(plugins, runtime):
    """What runs when the plugin comes is waited for; what begins meanwhile waits, and is an event of the new plugin."""
    release, reached = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    class Late:
        async def Synchronize(self, request: nri.SynchronizeRequest) -> None:
            order.append("synchronize " + ",".join(each.id for each in request.containers))
            reached.set()
            await release.wait()

        def CreateContainer(self, request: nri.CreateContainerRequest) -> None:
            order.append(f"create {request.container.id}")

    async def create(name: str, hold: asyncio.Event | None = None, inside: asyncio.Event | None = None) -> None:
        async with plugins.operation():
            if inside is not None:
                inside.set()
            await plugins.create(POD, nri.Container(id=name))
            if hold is not None:
                await hold.wait()
            runtime.known.append(nri.Container(id=name))

    hold, inside = asyncio.Event(), asyncio.Event()
    first = asyncio.ensure_future(create("first", hold, inside))
    await inside.wait()
    joining = asyncio.ensure_future(joined(plugins, Late()))
    while plugins._open.is_set():
        await asyncio.sleep(0)
    second = asyncio.ensure_future(create("second"))
    await asyncio.sleep(0)
    assert order == [], "the plugin waits for what runs"
    hold.set()
    await reached.wait()
    assert not second.done()
    release.set()
    await asyncio.gather(first, second, joining)
    assert order == ["synchronize first", "create second"]


async def test_a_plugin_that_never_ends_its_synchronization_holds_nothing_up_for_long(supervisor, runtime):
    plugins = Plugins(supervisor, registration_seconds=0.1, request_seconds=0.1)
    plugins.runtime = runtime

    class Stuck:
        async def Synchronize(self, _: object) -> None:
            await asyncio.Event().wait()

    # It fails the synchronization or, on a slow machine, the registration before it.
    with pytest.raises((AssertionError, OrlopError)):
        await joined(plugins, Stuck())
    async with plugins.operation():
        assert not plugins.active


async def test_much_is_synchronized_in_parts(plugins, runtime):
    big = "x" * (1 << 20)
    runtime.known = [nri.Container(id=str(n), labels={"big": big}) for n in range(9)]
    seen: list[list[str]] = []

    class Counts:
        def Synchronize(self, request: nri.SynchronizeRequest) -> None:
            seen.append([each.id for each in request.containers])

    await joined(plugins, Counts())
    assert seen == [[str(n) for n in range(9)]]


def test_each_part_fits_and_the_last_says_so():
    containers = [nri.Container(id=str(n), labels={"big": "x" * (1 << 20)}) for n in range(9)]
    requests = split([POD], containers)
    assert [each.more for each in requests] == [True] * (len(requests) - 1) + [False]
    assert all(each.ByteSize() < limits.TTRPC_MESSAGE_BYTES for each in requests)
    assert [each.id for request in requests for each in request.containers] == [each.id for each in containers]
    with pytest.raises(FailedPrecondition, match="too large"):
        split([], [nri.Container(id="c", labels={"big": "x" * (5 << 20)})])


async def test_a_request_that_is_too_large_is_an_error_not_a_hang(plugins):
    await joined(plugins, Recorder())
    with pytest.raises(FailedPrecondition, match="10-test: CreateContainer: ttrpc: a message of"):
        await plugins.create(POD, nri.Container(id="c", labels={"big": "x" * (5 << 20)}))
    assert plugins.active


async def test_an_unknown_method_is_unimplemented(plugins):
    stub = await joined(plugins, Recorder())
    with pytest.raises(ttrpc.CallRefused) as refused:
        await stub.connection.call(calls.RUNTIME_SERVICE, "Nothing", nri.Empty(), nri.Empty, LONG)
    assert refused.value.status == ttrpc.UNIMPLEMENTED


async def test_an_answer_that_cannot_be_read_cuts_the_plugin_off(plugins):
    """By hand: registers, subscribes to everything, then answers RunPodSandbox with noise."""
    join, theirs = await connected(plugins)
    loop = asyncio.get_running_loop()
    register = ttrpc_pb2.Request(
        service=calls.RUNTIME_SERVICE,
        method="RegisterPlugin",
        payload=nri.RegisterPluginRequest(plugin_name="raw", plugin_idx="01").SerializeToString(),
    )
    frame = ttrpc.encode(ttrpc.Frame(1, ttrpc.REQUEST, 0, register.SerializeToString()))
    await loop.sock_sendall(theirs, mux.frames(mux.RUNTIME_STREAM, frame))
    trunk, reader = mux.TrunkReader(), ttrpc.FrameReader()

    async def serve() -> None:
        while data := await loop.sock_recv(theirs, 65536):
            for stream, payload in trunk.feed(data):
                for call in reader.feed(payload) if stream == mux.PLUGIN_STREAM else ():
                    method = ttrpc_pb2.Request.FromString(call.payload).method
                    answer = b"\xff\xff" if method == "RunPodSandbox" else b""
                    back = ttrpc.encode(ttrpc.Frame(call.stream, ttrpc.RESPONSE, 0, answer))
                    await loop.sock_sendall(theirs, mux.frames(mux.PLUGIN_STREAM, back))

    serving = asyncio.ensure_future(serve())
    assert await join
    await plugins.tell(calls.RUN_POD, nri.RunPodSandboxRequest(pod=POD))
    await serving
    theirs.close()
