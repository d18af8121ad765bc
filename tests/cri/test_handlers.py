"""crun and runc as runtime handlers: the same pods, calls and outcomes as the built-in one, under the same monitor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from orlop.specs.nri_gen import nri_pb2 as nri
from tests.cri.client import CALL_SECONDS, Pod, container_config, pull
from tests.cri.daemons import Orlopd
from tests.cri.flow import left_over, pod_config, state_files
from tests.cri.harness import Source
from tests.cri.plugins import Plugin
from tests.cri.streams import STDERR, STDOUT, Command, exit_code
from tests.cri.test_pod import lines_of, wait_for
from tests.images.conformance import BUSYBOX

pytestmark = [pytest.mark.cri, pytest.mark.timeout(120)]

PROGRAMS = {name: shutil.which(name) or f"/usr/bin/{name}" for name in ("crun", "runc")}
MISSING = "/nonexistent/orlop-test-runtime"


def handler_config(**programs: str) -> str:
    return "".join(f'\n[runtime.handlers.{name}]\ntype = "oci"\npath = "{path}"\n' for name, path in programs.items())


@pytest.fixture(scope="module")
def orlopd(registry: Source) -> Iterator[Orlopd]:
    daemon = Orlopd(registry.certs_d)
    daemon.more_config = handler_config(**PROGRAMS, missing=MISSING)
    with daemon:
        with Client(daemon.address) as client:
            pull(client, BUSYBOX)
        scope = daemon.scope()
        before, files_before = scope.take(), state_files(daemon)
        yield daemon
        daemon.remove_pods()
        assert left_over(daemon, scope, before, files_before) == {}


@pytest.fixture(params=PROGRAMS)
def handler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pod(client: Client, orlopd: Orlopd, handler: str) -> Iterator[Pod]:
    config = pod_config(orlopd, f"{handler}-{os.urandom(4).hex()}")
    made = Pod.run(client, config, handler)
    yield made
    made.remove()


@pytest.fixture
def container(pod: Pod) -> str:
    return pod.launch(container_config())


def ended(pod: Pod, container: str) -> cri.ContainerStatus:
    wait_for(lambda: pod.container_status(container).state == cri.CONTAINER_EXITED, "it did not end")
    return pod.container_status(container)


def log_of(pod: Pod, name: str) -> list[str]:
    return lines_of(Path(pod.config.log_directory) / f"{name}.log")


def test_a_container_is_made_by_the_program_and_is_the_monitors_child(pod, container, handler):
    assert pod.status().runtime_handler == handler
    request = cri.ContainerStatusRequest(container_id=container, verbose=True)
    info = json.loads(pod.client.runtime.ContainerStatus(request).info["info"])
    status = Path(f"/proc/{info['pid']}/status").read_text()
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    assert Path(f"/proc/{parent}/comm").read_text().strip().startswith("orlop-monitor")
    assert info["runtimeSpec"]["root"]["path"].endswith(f"bundles/{container}/rootfs")


def test_output_exit_code_and_log(pod):
    made = pod.launch(container_config("brief", ["sh", "-c", "echo one; echo two >&2; exit 7"]))
    status = ended(pod, made)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert status.started_at <= status.finished_at
    assert sorted(log_of(pod, "brief")) == ["one", "two"]


def test_exec_keeps_output_code_and_environment(pod, container):
    answer = pod.exec(container, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
    # Over before its program is: the code must not be lost with the process.
    assert [pod.exec(container, "sh", "-c", f"exit {n}").exit_code for n in (0, 1, 255)] == [0, 1, 255]
    assert pod.exec(container, "sh", "-c", "kill -TERM $$").exit_code == 143


def test_a_command_that_cannot_be_executed_is_the_callers_fault(pod, container):
    for command, said in (("/no/such", "no such file|not found"), ("/etc/passwd", "denied")):
        with pytest.raises(InvalidArgument, match=f"(?i): exec: .*({said})"):
            pod.exec(container, command)
    with pytest.raises(InvalidArgument, match="(?i)^container wrong: exec: .*(no such file|not found)"):
        pod.create(container_config("wrong", ["/no/such"]))
    listed = pod.client.runtime.ListContainers(cri.ListContainersRequest()).containers
    assert [each.id for each in listed if each.pod_sandbox_id == pod.id] == [container]


def test_an_exec_that_takes_too_long_is_killed_with_what_it_began(pod, container):
    script = "trap '' TERM; sleep 987654 & sleep 987654"
    with pytest.raises(DeadlineExceeded):
        pod.exec(container, "sh", "-c", script, timeout=1)
    wait_for(lambda: b"987654" not in pod.exec(container, "ps").stdout, "its children live")


def test_streams_of_exec_attach_and_terminals(pod, client, container):
    request = cri.ExecRequest(
        container_id=container, cmd=["sh", "-c", "cat; exit 9"], stdin=True, stdout=True, stderr=True
    )
    with Command(client.runtime.Exec(request, timeout=30).url, stdin=True) as session:
        session.write(b"through\n", end=True)
        assert exit_code(session.finish()) == 9
        assert session.out() == b"through\n"
    request = cri.ExecRequest(container_id=container, cmd=["sh"], stdin=True, stdout=True, tty=True)
    with Command(client.runtime.Exec(request, timeout=30).url, stdin=True, stderr=False, tty=True) as session:
        session.resize(44, 99)
        session.write(b"stty size; tty\n")
        session.until_out(b"44 99")
        session.until_out(b"/dev/pts/")
        session.write(b"exit 5\n")
        assert exit_code(session.finish()) == 5
    # crun sets the size a moment after the command has begun.
    script = 'until [ "$(stty size)" = "31 76" ]; do sleep 0.02; done; echo sized'
    request = cri.ExecRequest(container_id=container, cmd=["sh", "-c", script], stdin=False, stdout=True, tty=True)
    with Command(client.runtime.Exec(request, timeout=30).url, stderr=False, tty=True) as session:
        session.resize(31, 76)
        assert exit_code(session.finish()) == 0
        assert session.out().endswith(b"sized\r\n")
    echo = container_config("echo", ["sh", "-c", "while read x; do echo got $x; echo e$x >&2; done; exit 6"])
    echo.stdin = echo.stdin_once = True
    made = pod.launch(echo)
    request = cri.AttachRequest(container_id=made, stdin=True, stdout=True, stderr=True)
    with Command(client.runtime.Attach(request, timeout=30).url, stdin=True) as session:
        session.write(b"one\n")
        session.until_out(b"got one\n")
        session.until_out(b"eone\n", STDERR)
        session.write(b"two\n", end=True)
        assert session.finish()["status"] == "Success"
        assert session.out(STDOUT) == b"got one\ngot two\n"
    assert ended(pod, made).exit_code == 6
    terminal = container_config("terminal", ["sh", "-c", "tty; stty size; read x; stty size; echo got $x; exit 4"])
    terminal.stdin = terminal.tty = True
    made = pod.launch(terminal)
    request = cri.AttachRequest(container_id=made, stdin=True, stdout=True, tty=True)
    with Command(client.runtime.Attach(request, timeout=30).url, stdin=True, stderr=False, tty=True) as session:
        session.resize(33, 77)
        # The size travels on a channel of its own: what is typed must not overtake it.
        wait_for(lambda: b"33 77" in pod.exec(made, "sh", "-c", "stty size < /dev/console").stdout, "no new size")
        session.write(b"word\n")
        session.until_out(b"33 77")
        session.until_out(b"got word")
    assert ended(pod, made).exit_code == 4
    assert log_of(pod, "terminal")[0].startswith("/dev/pts/")


def test_figures_and_limits_are_those_of_its_cgroup(pod, client):
    config = container_config("limited")
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    config.linux.resources.cpu_shares = 512
    made = pod.launch(config)
    request = cri.ContainerStatsRequest(container_id=made)
    stats = client.runtime.ContainerStats(request).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert 0 < stats.memory.working_set_bytes.value < 64 << 20
    assert stats.writable_layer.inodes_used.value >= 1
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"
    assert pod.exec(made, "sh", "-c", limit).stdout.split()[0] == b"%d" % (64 << 20)
    wanted = cri.LinuxContainerResources(memory_limit_in_bytes=96 << 20, cpu_shares=256)
    update = cri.UpdateContainerResourcesRequest(container_id=made, linux=wanted)
    client.runtime.UpdateContainerResources(update, timeout=CALL_SECONDS)
    assert pod.exec(made, "sh", "-c", limit).stdout.split()[0] == b"%d" % (96 << 20)
    assert pod.container_status(made).resources.linux.memory_limit_in_bytes == 96 << 20
    wrong = cri.LinuxContainerResources(cpuset_cpus="4095")
    with pytest.raises(InvalidArgument, match="cpuset"):
        client.runtime.UpdateContainerResources(
            cri.UpdateContainerResourcesRequest(container_id=made, linux=wrong), timeout=CALL_SECONDS
        )
    # An exec is charged to the container as well.
    assert b"limited" not in pod.exec(made, "cat", "/proc/self/cgroup").stdout
    assert made.encode() in pod.exec(made, "cat", "/proc/self/cgroup").stdout


def test_memory_beyond_the_limit_is_oomkilled(pod):
    config = container_config("hungry", ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"])
    config.linux.resources.memory_limit_in_bytes = 32 << 20
    status = ended(pod, pod.launch(config))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_stop_sends_its_signal_and_waits(pod):
    script = "trap 'echo asked; exit 12' USR1; echo ready; while :; do sleep 0.05; done"
    config = container_config("polite", ["sh", "-c", script])
    config.stop_signal = cri.SIGNAL_SIGUSR1
    made = pod.launch(config)
    wait_for(lambda: "ready" in log_of(pod, "polite"), "it did not begin")
    pod.stop_container(made, timeout=30)
    assert pod.container_status(made).exit_code == 12
    assert log_of(pod, "polite") == ["ready", "asked"]
    deaf = pod.launch(container_config("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]))
    pod.stop_container(deaf, timeout=1)
    assert pod.container_status(deaf).exit_code == 137
    with pytest.raises(FailedPrecondition):
        pod.exec(deaf, "true")
    pod.stop_container(deaf, timeout=1)
    pod.remove_container(deaf)
    pod.remove_container(deaf)


def test_a_created_container_waits_and_can_be_removed(pod, client):
    made = pod.create(container_config("waiting"))
    assert pod.container_status(made).state == cri.CONTAINER_CREATED
    pod.remove_container(made)
    with pytest.raises(NotFound):
        pod.container_status(made)


def test_a_shared_process_namespace_and_its_target(client, orlopd, handler):
    config = pod_config(orlopd, f"{handler}-{os.urandom(4).hex()}")
    config.linux.security_context.namespace_options.pid = cri.POD
    pod = Pod.run(client, config, handler)
    try:
        first = pod.launch(container_config("first", ["sleep", "12345"]))
        second = pod.launch(container_config("second"))
        assert b"12345" in pod.exec(second, "ps").stdout
        pod.stop_container(first)
        assert pod.container_status(first).exit_code == 137
        assert b"12345" not in pod.exec(second, "ps").stdout
        debug = container_config("debug")
        debug.linux.security_context.namespace_options.pid = cri.TARGET
        debug.linux.security_context.namespace_options.target_id = second
        assert b"3600" in pod.exec(pod.launch(debug), "ps").stdout
    finally:
        pod.remove()


def test_what_the_pod_has_is_the_containers(pod, container):
    other = pod.launch(container_config("other"))
    pod.exec(other, "sh", "-c", "echo shared > /dev/shm/file")
    assert pod.exec(container, "cat", "/dev/shm/file").stdout == b"shared\n"
    assert pod.exec(container, "hostname").stdout.decode().strip() == pod.config.hostname
    address = pod.status().network.ip
    assert address.encode() in pod.exec(container, "ip", "addr").stdout
    assert address in pod.exec(container, "cat", "/etc/hosts").stdout.decode()


def test_volumes_carry_mounts_as_they_are_asked_to(pod, handler):
    shared = Path(f"/var/tmp/orlop-test-{handler}-{os.urandom(4).hex()}")
    shared.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "orlop-test", shared], check=True)
        subprocess.run(["mount", "--make-shared", shared], check=True)
        for name in ("up", "down"):
            (shared / name).mkdir()
        config = container_config("carries")
        config.linux.security_context.privileged = True
        config.mounts.add(host_path=str(shared), container_path="/v", propagation=cri.PROPAGATION_BIDIRECTIONAL)
        config.mounts.add(host_path=str(shared), container_path="/r", readonly=True)
        privileged = pod_config_of(pod)
        privileged.linux.security_context.privileged = True
        second = Pod.run(pod.client, privileged, handler)
        try:
            made = second.launch(config)
            assert second.exec(made, "mount", "-t", "tmpfs", "in", "/v/up").exit_code == 0
            assert (shared / "up").is_mount()
            subprocess.run(["mount", "-t", "tmpfs", "out", shared / "down"], check=True)
            assert second.exec(made, "mountpoint", "/v/down").exit_code == 0
            assert second.exec(made, "touch", "/r/file").exit_code == 1
            assert second.exec(made, "umount", "/v/up").exit_code == 0
        finally:
            second.remove()
    finally:
        subprocess.run(["umount", "-R", shared], check=False, capture_output=True)
        shared.rmdir()


def pod_config_of(pod: Pod) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig()
    config.CopyFrom(pod.config)
    config.metadata.name += "-second"
    config.metadata.uid += "-second"
    return config


def test_security_settings_reach_the_process(pod):
    config = container_config("guarded")
    context = config.linux.security_context
    context.run_as_user.value = 1000
    context.run_as_group.value = 1000
    context.supplemental_groups.append(2000)
    context.no_new_privs = True
    context.readonly_rootfs = True
    context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    context.masked_paths.append("/proc/keys")
    context.readonly_paths.append("/proc/sys")
    made = pod.launch(config)
    assert b"uid=1000(web) gid=1000(web) groups=1000(web),2000" in pod.exec(made, "id").stdout
    seen = dict(
        line.split(b":", 1) for line in pod.exec(made, "cat", "/proc/1/status", "/proc/self/status").stdout.splitlines()
    )
    assert (seen[b"NoNewPrivs"].strip(), seen[b"Seccomp"].strip()) == (b"1", b"2")
    assert pod.exec(made, "touch", "/file").exit_code == 1
    assert pod.exec(made, "cat", "/proc/keys").stdout == b""


def test_a_container_outlives_kill_of_the_daemon(pod, orlopd):
    counter = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done"
    made = pod.launch(container_config("count", ["sh", "-c", counter]))
    waiting = pod.create(container_config("waiting", ["sh", "-c", "echo begun; exit 3"]))
    brief = pod.launch(
        container_config("brief", ["sh", "-c", "until [ -e /dev/shm/end ]; do sleep 0.02; done; exit 8"])
    )
    wait_for(lambda: len(log_of(pod, "count")) > 5, "it did not count")
    pod.exec(made, "sh", "-c", "(sleep 0.3; touch /dev/shm/end) > /dev/null 2>&1 &")
    orlopd.kill()
    try:
        already = len(log_of(pod, "count"))
        wait_for(lambda: len(log_of(pod, "count")) > already + 20, "the log stopped with the daemon")
    finally:
        orlopd.start()
    assert pod.container_status(made).state == cri.CONTAINER_RUNNING
    assert pod.exec(made, "echo", "back").stdout == b"back\n"
    found = [int(line) for line in log_of(pod, "count")]
    assert found == list(range(len(found))), "a line was lost or doubled"
    assert ended(pod, brief).exit_code == 8
    pod.start(waiting)
    assert ended(pod, waiting).exit_code == 3


def test_the_monitors_end_is_told_and_nothing_is_left(pod, container, client, orlopd, handler):
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    monitor = json.loads(client.runtime.PodSandboxStatus(request).info["info"])["pid"]
    bundle = orlopd.state / "pods" / pod.id / "bundles" / container
    assert bundle.is_dir()
    os.kill(monitor, signal.SIGKILL)
    status = ended(pod, container)
    assert (status.exit_code, status.reason) == (137, "MonitorLost")
    assert pod.status().state == cri.SANDBOX_NOTREADY
    # The program is asked to forget it all the same, by a monitor that lives for that.
    pod.remove_container(container)
    assert not bundle.exists()
    assert list((orlopd.state / "pods" / pod.id / "programs").iterdir()) == []


def test_a_program_that_is_missing_is_said_so(client, orlopd):
    with pytest.raises(FailedPrecondition, match=f"runtime_handler 'missing': {MISSING}: does not exist"):
        Pod.run(client, pod_config(orlopd, "missing"), "missing")
    with pytest.raises(InvalidArgument, match="'nobody' is not one of '', 'orlop', 'crun', 'runc'"):
        Pod.run(client, pod_config(orlopd, "nobody"), "nobody")
    status = client.runtime.Status(cri.StatusRequest(verbose=True))
    assert [each.name for each in status.runtime_handlers] == ["", "orlop", "crun", "runc"]
    facts = json.loads(status.info["handlers"])
    assert facts["crun"]["version"].startswith("crun ")
    assert facts["runc"]["version"].startswith("runc ")
    assert facts["missing"]["unavailable"] == f"{MISSING}: does not exist"


def test_plugins_adjust_and_update_what_any_handler_runs(pod, orlopd, tmp_path):
    """NRI is asked before the handler: what it wants is in the program's config.json, hooks too, which the built-in handler refuses."""
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/state\n")
    hook.chmod(0o755)
    memory = nri.LinuxMemory(limit=nri.OptionalInt64(value=64 << 20))
    adjust = nri.ContainerAdjustment(
        env=[nri.KeyValue(key="ADDED", value="yes")],
        mounts=[nri.Mount(destination="/from", type="bind", source=str(tmp_path), options=["bind", "ro"])],
        hooks=nri.Hooks(create_runtime=[nri.Hook(path=str(hook), args=["hook"])]),
        linux=nri.LinuxContainerAdjustment(resources=nri.LinuxResources(memory=memory)),
    )
    with Plugin(
        orlopd.state / "nri.sock", CreateContainer=lambda _: nri.CreateContainerResponse(adjust=adjust)
    ) as plugin:
        container = pod.launch(container_config("adjusted"))
        assert pod.exec(container, "sh", "-c", "echo $ADDED; ls /from").stdout.split()[:2] == [b"yes", b"hook"]
        assert json.loads((tmp_path / "state").read_text())["id"] == container
        limit = memory_file(pod, container)
        assert limit.read_text().strip() == str(64 << 20)
        memory.limit.value = 96 << 20
        update = nri.LinuxContainerUpdate(resources=nri.LinuxResources(memory=memory))
        assert plugin.update([nri.ContainerUpdate(container_id=container, linux=update)]) == []
        assert limit.read_text().strip() == str(96 << 20)
        pod.stop_container(container)
        assert plugin.handlers.names(container)[-1] == "StopContainer"


def memory_file(pod: Pod, container: str) -> Path:
    request = cri.ContainerStatusRequest(container_id=container, verbose=True)
    info = pod.client.runtime.ContainerStatus(request, timeout=CALL_SECONDS).info
    path = json.loads(info["info"])["cgroup"] if "info" in info else json.loads(info["cgroup"])
    v2 = Path(f"/sys/fs/cgroup{path}/memory.max")
    return v2 if v2.exists() else Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")
