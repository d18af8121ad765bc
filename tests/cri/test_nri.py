"""NRI with a real daemon: a plugin sees every event, changes containers, is cut off when slow, loses no container when it comes late."""

from __future__ import annotations

import socket as unix
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orlop.base.errors import OrlopError
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from orlop.specs.nri_gen import nri_pb2 as nri
from tests.cri.client import CALL_SECONDS, Pod, container_config, pull, sandbox_config
from tests.cri.daemons import TOP, Daemon, Orlopd
from tests.cri.harness import Source
from tests.cri.plugins import Plugin
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri
WAIT_SECONDS = 30.0


@pytest.fixture
def socket(orlopd: Daemon) -> Path:
    return orlopd.state / "nri.sock"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OrlopError) as caught:
        call()
    return f"{caught.value.code}: {caught.value}"


def adjusting(**adjust: object) -> Callable[[nri.CreateContainerRequest], nri.CreateContainerResponse]:
    return lambda _: nri.CreateContainerResponse(adjust=nri.ContainerAdjustment(**adjust))


def linux(**fields: object) -> Callable[[nri.CreateContainerRequest], nri.CreateContainerResponse]:
    return adjusting(linux=nri.LinuxContainerAdjustment(**fields))


def memory_update(container: str, limit: int, **more: object) -> nri.ContainerUpdate:
    memory = nri.LinuxMemory(limit=nri.OptionalInt64(value=limit))
    return nri.ContainerUpdate(
        container_id=container, linux=nri.LinuxContainerUpdate(resources=nri.LinuxResources(memory=memory)), **more
    )


def memory_of(pod: Pod, container: str) -> int:
    return pod.container_status(container).resources.linux.memory_limit_in_bytes


def new_pod(client: Client, daemon: Daemon, **more: object) -> Pod:
    config = sandbox_config(**more)
    config.linux.cgroup_parent = daemon.cgroup_parent
    config.log_directory = str(daemon.logs / config.metadata.name)
    return Pod.run(client, config)


def test_every_event_in_order_with_what_it_is_about(client, orlopd, socket):
    pull(client, BUSYBOX)
    with Plugin(socket) as plugin:
        pod = new_pod(client, orlopd, labels={"l": "1"}, annotations={"a": "2"})
        container = pod.create(
            container_config("web", ["sleep", "60"], envs=[cri.KeyValue(key="K", value=b"v")], labels={"x": "y"})
        )
        pod.start(container)
        update = cri.UpdateContainerResourcesRequest(
            container_id=container, linux=cri.LinuxContainerResources(cpu_shares=512)
        )
        client.runtime.UpdateContainerResources(update, timeout=CALL_SECONDS)
        client.runtime.UpdatePodSandboxResources(
            cri.UpdatePodSandboxResourcesRequest(
                pod_sandbox_id=pod.id, resources=cri.LinuxContainerResources(cpu_shares=1024)
            ),
            timeout=CALL_SECONDS,
        )
        pod.stop_container(container, timeout=0)
        pod.remove_container(container)
        pod.remove()
        events = plugin.handlers.events
    assert [name for name, _ in events] == [
        "RunPodSandbox",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ]
    by_name = dict(events)
    sandbox = by_name["RunPodSandbox"].pod
    metadata = pod.config.metadata
    assert (sandbox.id, sandbox.name, sandbox.namespace, sandbox.uid) == (
        pod.id,
        metadata.name,
        metadata.namespace,
        metadata.uid,
    )
    assert dict(sandbox.labels) == {"l": "1"}
    assert sandbox.annotations["a"] == "2"
    assert sandbox.ips, "the pod has its address"
    assert sandbox.pid
    assert sandbox.linux.cgroup_parent == orlopd.cgroup_parent
    created = by_name["CreateContainer"].container
    assert (created.id, created.pod_sandbox_id, created.name) == (container, pod.id, "web")
    assert list(created.args) == ["sleep", "60"]
    assert "K=v" in created.env
    assert created.labels["x"] == "y"
    assert created.image.config_digest.startswith("sha256:")
    assert "/proc" in {each.destination for each in created.mounts}
    assert by_name["PostStartContainer"].container.state == nri.CONTAINER_RUNNING
    assert by_name["PostStartContainer"].container.pid
    assert by_name["UpdateContainer"].linux_resources.cpu.shares.value == 512
    assert by_name["PostUpdateContainer"].container.linux.resources.cpu.shares.value == 512
    assert by_name["UpdatePodSandbox"].linux_resources.cpu.shares.value == 1024
    assert by_name["StopContainer"].container.state == nri.CONTAINER_STOPPED
    assert by_name["StopContainer"].container.exit_code == 137


def test_a_container_that_ends_by_itself_is_told_as_stopped(pod, socket):
    with Plugin(socket) as plugin:
        container = pod.launch(container_config("short", ["sh", "-c", "exit 3"]))
        wait_for(lambda: "StopContainer" in plugin.handlers.names(container), "StopContainer without a call for it")
        pod.remove_container(container)
        names = plugin.handlers.names(container)
        stopped = dict(plugin.handlers.events)["StopContainer"].container
    assert names[2:] == ["StartContainer", "PostStartContainer", "StopContainer", "RemoveContainer"]
    assert stopped.exit_code == 3


def test_adjustments_are_in_the_container(pod, orlopd, socket, tmp_path):
    (tmp_path / "file").write_text("from the plugin\n")
    adjustment = nri.ContainerAdjustment(
        annotations={"made.by": "plugin"},
        env=[nri.KeyValue(key="ADDED", value="yes"), nri.KeyValue(key="-REMOVED")],
        mounts=[nri.Mount(destination="/from/plugin", type="bind", source=str(tmp_path), options=["bind", "ro"])],
        args=["sh", "-c", "echo $ADDED ${REMOVED:-gone}; exec sleep 60"],
        rlimits=[nri.POSIXRlimit(type="RLIMIT_NOFILE", soft=100, hard=200)],
        linux=nri.LinuxContainerAdjustment(
            devices=[
                nri.LinuxDevice(
                    path="/dev/mynull", type="c", major=1, minor=3, file_mode=nri.OptionalFileMode(value=0o640)
                )
            ],
            resources=nri.LinuxResources(
                memory=nri.LinuxMemory(limit=nri.OptionalInt64(value=64 << 20)),
                cpu=nri.LinuxCPU(shares=nri.OptionalUInt64(value=300), cpus="0"),
                pids=nri.LinuxPids(limit=77),
            ),
            oom_score_adj=nri.OptionalInt(value=555),
            sysctl={"net.ipv4.ip_unprivileged_port_start": "77"},
            io_priority=nri.LinuxIOPriority(**{"class": nri.IOPRIO_CLASS_BE}, priority=6),
            scheduler=nri.LinuxScheduler(policy=nri.SCHED_BATCH, nice=5),
            namespaces=[nri.LinuxNamespace(type="cgroup")],
            seccomp_policy=nri.LinuxSeccomp(
                default_action="SCMP_ACT_ALLOW",
                syscalls=[
                    nri.LinuxSyscall(
                        names=["mkdir", "mkdirat"], action="SCMP_ACT_ERRNO", errno_ret=nri.OptionalUInt32(value=95)
                    )
                ],
            ),
        ),
    )
    with Plugin(socket, CreateContainer=lambda _: nri.CreateContainerResponse(adjust=adjustment)) as plugin:
        container = pod.launch(container_config("adjusted", ["true"], envs=[cri.KeyValue(key="REMOVED", value=b"no")]))

        def run(command: str) -> str:
            answer = pod.exec(container, "sh", "-c", command)
            return (answer.stdout + answer.stderr).decode().strip()

        log = orlopd.logs / pod.config.metadata.name / "adjusted.log"
        wait_for(lambda: "yes gone" in log.read_text(), "its command and environment are the plugin's")
        assert run("cat /from/plugin/file") == "from the plugin"
        assert "Read-only" in run("touch /from/plugin/x")
        assert run("ulimit -n; ulimit -Hn") == "100\n200"
        assert run("echo x > /dev/mynull && ls -l /dev/mynull | cut -c1-10") == "crw-r-----"
        assert run("cat /proc/self/oom_score_adj") == "555"
        assert run("cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "77"
        assert run("grep Cpus_allowed_list /proc/self/status | cut -f2") == "0"
        assert "not supported" in run("mkdir /tmp/x").lower()
        status = pod.container_status(container).resources.linux
        assert (status.memory_limit_in_bytes, status.cpu_shares, status.cpuset_cpus) == (64 << 20, 300, "0")
        sent = dict(plugin.handlers.events)["PostCreateContainer"].container
        assert sent.annotations["made.by"] == "plugin"
        assert "cgroup" in {each.type for each in sent.linux.namespaces}
        assert sent.linux.scheduler.nice == 5
        assert sent.linux.resources.pids.limit == 77


REFUSED = [
    (adjusting(hooks=nri.Hooks(prestart=[nri.Hook(path="/bin/true")])), "UNIMPLEMENTED", "hooks"),
    (adjusting(CDI_devices=[nri.CDIDevice(name="vendor.com/class=one")]), "NOT_FOUND", "vendor.com/class=one"),
    (linux(net_devices={"eth7": nri.LinuxNetDevice(name="net7")}), "UNIMPLEMENTED", "netDevices"),
    (linux(rdt=nri.LinuxRdt(clos_id=nri.OptionalString(value="gold"))), "UNIMPLEMENTED", "intelRdt"),
    (linux(memory_policy=nri.LinuxMemoryPolicy(mode=nri.MPOL_BIND, nodes="0")), "UNIMPLEMENTED", "memoryPolicy"),
    (linux(namespaces=[nri.LinuxNamespace(type="-network")]), "UNIMPLEMENTED", "namespaces: network"),
    (linux(cgroups_path="/somewhere/else"), "INVALID_ARGUMENT", "cgroups_path"),
    (
        linux(resources=nri.LinuxResources(blockio_class=nri.OptionalString(value="fast"))),
        "INVALID_ARGUMENT",
        "blockio_class 'fast'",
    ),
    (
        linux(resources=nri.LinuxResources(memory=nri.LinuxMemory(kernel=nri.OptionalInt64(value=1 << 20)))),
        "INVALID_ARGUMENT",
        "memory.kernel",
    ),
    (adjusting(mounts=[nri.Mount(destination="/proc/sys", type="bind", source="/")]), "INVALID_ARGUMENT", "/proc"),
    (adjusting(mounts=[nri.Mount(destination="../x", type="bind", source="/")]), "INVALID_ARGUMENT", "mounts"),
    (adjusting(rlimits=[nri.POSIXRlimit(type="RLIMIT_NONE")]), "INVALID_ARGUMENT", "rlimits"),
    (linux(sysctl={"vm.swappiness": "1"}), "INVALID_ARGUMENT", "vm.swappiness"),
]


def test_what_cannot_be_done_is_refused_by_name_and_nothing_remains(pod, client, socket):
    with Plugin(socket) as plugin:
        for number, (adjust, code, words) in enumerate(REFUSED):
            plugin.handlers.handlers["CreateContainer"] = adjust
            answer = refused(lambda number=number: pod.create(container_config(f"refused-{number}")))
            assert answer.startswith(code), answer
            assert words in answer
            assert "10-test" in answer, "the plugin is named"
        assert plugin.handlers.names()[-3:] == ["CreateContainer", "StopContainer", "RemoveContainer"], (
            "a plugin that was asked may let go"
        )
    request = cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=pod.id))
    assert not client.runtime.ListContainers(request, timeout=CALL_SECONDS).containers


def test_two_plugins_their_order_and_their_conflict(pod, socket):
    def env(name: str, value: str) -> nri.KeyValue:
        return nri.KeyValue(key=name, value=value)

    with (
        Plugin(socket, "20", "late", CreateContainer=adjusting(env=[env("B", "late")])) as late,
        Plugin(socket, "05", "early", CreateContainer=adjusting(env=[env("A", "early")])) as early,
    ):
        container = pod.launch(container_config("both"))
        assert pod.exec(container, "sh", "-c", "echo $A $B").stdout == b"early late\n"
        assert "A=early" in dict(late.handlers.events)["CreateContainer"].container.env
        early.handlers.handlers["CreateContainer"] = adjusting(env=[env("B", "early")])
        answer = refused(lambda: pod.create(container_config("conflict")))
    assert "plugins 20-late and 05-early both set Env B" in answer


def test_a_validator_has_the_last_word(pod, socket):
    seen: list[nri.ValidateContainerAdjustmentRequest] = []

    def validate(request: nri.ValidateContainerAdjustmentRequest) -> nri.ValidateContainerAdjustmentResponse:
        seen.append(request)
        rejected = bool(request.adjust.args)
        return nri.ValidateContainerAdjustmentResponse(reject=rejected, reason="commands stay as they are")

    with (
        Plugin(socket, "10", "changes", CreateContainer=adjusting(args=["sleep", "1"])) as changes,
        Plugin(socket, "90", "guard", ValidateContainerAdjustment=validate),
    ):
        answer = refused(lambda: pod.create(container_config("validated")))
        assert answer.startswith("PERMISSION_DENIED")
        assert "90-guard: rejects the adjustment: commands stay as they are" in answer
        assert seen[0].owners.owners[seen[0].container.id].simple[nri.Field.Args] == "10-changes"
        changes.handlers.handlers["CreateContainer"] = adjusting(annotations={"fine": "yes"})
        pod.create(container_config("validated-2"))


def test_errors_of_plugins_fail_what_can_be_refused_and_hold_nothing_that_ends(client, orlopd, socket):
    def fails(_: object) -> None:
        raise RuntimeError("induced")

    names = ("RunPodSandbox", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")
    pull(client, BUSYBOX)
    with Plugin(socket, **dict.fromkeys(names, fails)) as plugin:
        config = sandbox_config("refused-pod")
        config.linux.cgroup_parent = orlopd.cgroup_parent
        answer = refused(lambda: Pod.run(client, config))
        assert "nri plugin 10-test: RunPodSandbox: RuntimeError: induced" in answer
        assert plugin.handlers.names() == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
        listed = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items
        assert not [each for each in listed if each.metadata.name == "refused-pod"]
        del plugin.handlers.handlers["RunPodSandbox"]
        pod = Pod.run(client, config)
        container = pod.launch(container_config("ends"))
        pod.stop_container(container)
        pod.remove_container(container)
        pod.remove()
        assert plugin.handlers.names(container)[-2:] == ["StopContainer", "RemoveContainer"]


def test_a_pod_is_not_listed_before_its_plugins_agreed(client, orlopd, socket):
    reached, release = threading.Event(), threading.Event()
    identity: list[str] = []

    def hold(request: nri.RunPodSandboxRequest) -> None:
        identity.append(request.pod.id)
        reached.set()
        release.wait(WAIT_SECONDS)

    with Plugin(socket, RunPodSandbox=hold), ThreadPoolExecutor(1) as pool:
        making = pool.submit(new_pod, client, orlopd)
        try:
            assert reached.wait(WAIT_SECONDS)
            listed = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items
            assert identity[0] not in {each.id for each in listed}
            create = cri.CreateContainerRequest(pod_sandbox_id=identity[0], config=container_config())
            answer = refused(lambda: client.runtime.CreateContainer(create, timeout=CALL_SECONDS))
            assert answer.startswith("FAILED_PRECONDITION")
        finally:
            release.set()
        made = making.result(WAIT_SECONDS)
        assert made.status().state == cri.SANDBOX_READY
        made.remove()


def test_updates_on_create_update_stop_and_at_any_time(pod, client, socket):
    first = pod.launch(container_config("first"))

    def create(_: object) -> nri.CreateContainerResponse:
        return nri.CreateContainerResponse(update=[memory_update(first, 100 << 20)])

    def update(request: nri.UpdateContainerRequest) -> nri.UpdateContainerResponse:
        return nri.UpdateContainerResponse(
            update=[memory_update(request.container.id, 50 << 20), memory_update(first, 110 << 20)]
        )

    def stop(_: object) -> nri.StopContainerResponse:
        return nri.StopContainerResponse(update=[memory_update(first, 120 << 20)])

    with Plugin(socket, CreateContainer=create, UpdateContainer=update, StopContainer=stop) as plugin:
        second = pod.launch(container_config("second"))
        assert memory_of(pod, first) == 100 << 20
        request = cri.UpdateContainerResourcesRequest(
            container_id=second, linux=cri.LinuxContainerResources(memory_limit_in_bytes=70 << 20)
        )
        client.runtime.UpdateContainerResources(request, timeout=CALL_SECONDS)
        assert memory_of(pod, second) == 50 << 20, "the plugin's word, not kubelet's"
        assert memory_of(pod, first) == 110 << 20
        pod.stop_container(second)
        assert memory_of(pod, first) == 120 << 20
        failed = plugin.update([memory_update(first, 130 << 20), memory_update("0123456789abcdef", 1 << 30)])
        assert [each.container_id for each in failed] == ["0123456789abcdef"]
        assert memory_of(pod, first) == 130 << 20


def test_an_evicted_container_stops_and_says_why(pod, socket):
    waits = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    container = pod.launch(container_config("victim", ["sh", "-c", waits]))
    log = Path(pod.config.log_directory) / "victim.log"
    wait_for(lambda: "ready" in log.read_text(), "it does not wait for its signal")
    with Plugin(socket) as plugin:
        plugin.update([], (nri.ContainerEviction(container_id=container, reason="no room"),))
        wait_for(lambda: pod.container_status(container).state == cri.CONTAINER_EXITED, "it was not stopped")
    status = pod.container_status(container)
    assert status.message == "evicted by NRI plugin 10-test: no room"
    assert status.exit_code == 0, "it had its time to end"


def test_a_late_plugin_loses_no_container(pod, socket):
    """Containers made before, during and after its synchronization reach it one way or the other."""
    before = [pod.launch(container_config(f"before-{n}")) for n in range(2)]
    gone = pod.launch(container_config("gone", ["true"]))
    wait_for(lambda: pod.container_status(gone).state == cri.CONTAINER_EXITED, "it did not end")
    reached, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        reached.set()
        release.wait(WAIT_SECONDS)

    plugin = Plugin(socket, Synchronize=hold).start()
    try:
        assert reached.wait(WAIT_SECONDS)
        with ThreadPoolExecutor(3) as pool:
            during = [pool.submit(pod.launch, container_config(f"during-{n}")) for n in range(3)]
            time.sleep(0.2)  # they are under way while the plugin is synchronized; nothing is decided by it
            release.set()
            made = [each.result(WAIT_SECONDS) for each in during]
        plugin.wait_ready()
        after = pod.launch(container_config("after"))
        known = {each.id for request in plugin.handlers.synchronized for each in request.containers}
        told = {request.container.id for name, request in plugin.handlers.events if name == "CreateContainer"}
        assert {*before, *made, after} <= known | told
        assert not known & told, "each by one way"
        assert gone not in known
        assert pod.id in {each.id for request in plugin.handlers.synchronized for each in request.pods}
    finally:
        release.set()
        plugin.close()


@pytest.fixture
def hasty(registry: Source) -> Iterator[Daemon]:
    """A daemon that waits a second for its plugins."""
    with Orlopd(registry.certs_d, name="nri", nri='request_timeout = "1s"\nregistration_timeout = 30') as daemon:
        yield daemon


def test_a_slow_plugin_is_cut_off_and_the_pod_runs(hasty):
    hung = threading.Event()
    with Client(hasty.address) as client:
        pull(client, BUSYBOX)
        with Plugin(hasty.state / "nri.sock", RunPodSandbox=lambda _: hung.wait(WAIT_SECONDS)) as plugin:
            pod = new_pod(client, hasty)
            assert pod.status().state == cri.SANDBOX_READY
            hung.set()
            assert plugin.closed()
        assert "no answer to RunPodSandbox within 1s: cut off" in hasty.log_tail(400)
        pod.launch(container_config())
        pod.remove()


def test_plugins_outlive_nothing_and_come_again(registry, tmp_path):
    """The daemon ends: its plugins are told; it is killed: they see it; a new daemon takes its socket over and knows the pods."""
    with Orlopd(registry.certs_d, name="nri2") as daemon, Client(daemon.address) as client:
        path = daemon.state / "nri.sock"
        pull(client, BUSYBOX)
        told = threading.Event()
        with Plugin(path) as plugin:
            plugin.handlers.Shutdown = lambda _: told.set()  # type: ignore[attr-defined]
            pod = new_pod(client, daemon)
            container = pod.launch(container_config())
            assert daemon.terminate() == 0
            assert plugin.closed()
            assert told.is_set()
        assert not path.exists()
        daemon.start()
        with Plugin(path) as plugin:
            assert [each.id for each in plugin.handlers.synchronized[0].pods] == [pod.id]
            assert [each.id for each in plugin.handlers.synchronized[0].containers] == [container]
            daemon.kill()
            assert plugin.closed()
        daemon.start()
        with Plugin(path):
            pod.remove()


def test_a_configured_socket_that_is_taken_stops_the_start(orlopd, socket, registry):
    """Two daemons do not fight over one socket."""
    second = Orlopd(registry.certs_d, name="nri3", nri=f'socket_path = "{socket}"')
    with pytest.raises(RuntimeError, match="another process listens there"):
        second.__enter__()
    with Plugin(socket):
        pass


def test_the_sample_plugin_is_started_and_does_what_pods_ask_for(registry, tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    sample = (TOP / "examples" / "nri_plugin.py").read_text().split("\n", 1)[1]
    program = plugins / "10-sample"
    # Its first line looks for Python in PATH; here it is the tests' own, with the package in the source tree.
    program.write_text(
        f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(TOP / 'src')!r})\n{_future_first(sample)}"
    )
    program.chmod(0o755)
    with Orlopd(registry.certs_d, name="nri5", nri=f'plugin_path = "{plugins}"') as daemon:
        with Client(daemon.address) as client:
            pull(client, BUSYBOX)
            pod = new_pod(client, daemon, annotations={"env.sample.nri/WHO": "sample", "nofile.sample.nri": "321"})
            container = pod.launch(container_config("asks"))
            assert pod.exec(container, "sh", "-c", "echo $WHO $(ulimit -n)").stdout == b"sample 321\n"
            pod.remove()
        log = daemon.log_tail(400)
    assert "0 pods and 0 containers are there" in log
    assert f"orlop-tests/{pod.config.metadata.name}: asks is created" in log
    assert "asks ended with 137" in log


def _future_first(text: str) -> str:
    """A __future__ import must be the first statement: it is not needed once another stands before it."""
    return text.replace("from __future__ import annotations\n", "")


def test_connections_that_come_and_go_leave_nothing_in_the_daemon(orlopd, socket):
    """Some register, some send noise, some say nothing."""

    def open_files() -> int:
        return len(list(Path(f"/proc/{orlopd.pid}/fd").iterdir()))

    with Plugin(socket):
        pass
    before = open_files()
    for number in range(30):
        if number % 3 == 0:
            with Plugin(socket):
                pass
            continue
        with unix.socket(unix.AF_UNIX) as client:
            client.connect(str(socket))
            if number % 3 == 1:
                client.sendall(b"\xff" * 100)
    wait_for(lambda: open_files() <= before, "files of plugins that are gone are still open")


STEPS = ("container.create.plugins", "container.create.cgroup", "container.create.launch")


def test_whatever_fails_after_they_agreed_plugins_are_told(registry):
    daemon = Orlopd(registry.certs_d, name="nri7")
    daemon.environment["ORLOP_FAULTS"] = ",".join(f"{name}=fail" for name in ("sandbox.run.plugins", *STEPS))
    with daemon, Client(daemon.address) as client, Plugin(daemon.state / "nri.sock") as plugin:
        pull(client, BUSYBOX)
        events = plugin.handlers.events
        refused(lambda: new_pod(client, daemon))
        assert [name for name, _ in events] == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
        pod = new_pod(client, daemon)
        for number, step in enumerate(STEPS):
            del events[:]
            answer = refused(lambda number=number: pod.create(container_config(f"c{number}")))
            assert step in answer
            assert [name for name, _ in events] == ["CreateContainer", "StopContainer", "RemoveContainer"], step
            assert len({request.container.id for _, request in events}) == 1
        pod.remove()


RULES = """
[nri.default_validator]
enable = true
reject_sysctl_adjustment = true
required_plugins = ["test"]
tolerate_missing_plugins_annotation = "tolerant"
"""


def test_rules_of_the_administrator(registry):
    with Orlopd(registry.certs_d, name="nri6", nri=RULES) as daemon, Client(daemon.address) as client:
        pull(client, BUSYBOX)
        pod = new_pod(client, daemon)
        answer = refused(lambda: pod.create(container_config("without")))
        assert answer.startswith("PERMISSION_DENIED")
        assert "required plugin test is not there" in answer
        tolerant = new_pod(client, daemon, annotations={"tolerant": "true"})
        tolerant.create(container_config())
        with Plugin(daemon.state / "nri.sock") as plugin:
            pod.create(container_config("with"))
            plugin.handlers.handlers["CreateContainer"] = linux(sysctl={"net.ipv4.ip_forward": "1"})
            answer = refused(lambda: pod.create(container_config("changed")))
            assert "forbid to change sysctls; plugin 10-test (net.ipv4.ip_forward) did" in answer
            assert plugin.handlers.names()[-2:] == ["StopContainer", "RemoveContainer"]
        for each in (pod, tolerant):
            each.remove()


def test_switched_off_there_is_no_socket(registry):
    with Orlopd(registry.certs_d, name="nri4", nri="enabled = false") as daemon:
        assert not list(daemon.state.glob("**/nri.sock"))
