"""Containers from a pulled image through create, start, exec, logs, stop and remove, on the real kernel with the real monitor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from orlop.base.errors import DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound
from orlop.services.containers.attach import attach_container
from orlop.services.containers.create import create_container
from orlop.services.containers.log import reopen_container_log
from orlop.services.containers.remove import remove_container
from orlop.services.containers.start import start_container
from orlop.services.containers.stats import container_stats
from orlop.services.containers.status import container_status
from orlop.services.containers.stop import stop_container
from orlop.services.execs.exec_sync import exec_sync
from orlop.services.images.pull import pull_image
from orlop.services.node import Node
from orlop.services.sandboxes.remove import remove_sandbox
from orlop.services.sandboxes.run import run_sandbox
from orlop.specs.pod import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSecurity,
    ContainerState,
    ImageSpec,
    KeyValue,
    LinuxResources,
    Mount,
    NamespaceMode,
    NamespaceOptions,
    SandboxConfig,
    SandboxMetadata,
    SandboxSecurity,
    SecurityProfile,
)
from tests.kernel.services.conftest import IMAGE

pytestmark = pytest.mark.kernel
Restart = Callable[[], Awaitable[Node]]
HOST_NETWORK = SandboxSecurity(namespaces=NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER))


class Pod:
    def __init__(self, node: Node, sandbox_id: str, image: str, logs: Path, restart: Restart) -> None:
        self.node, self.id, self.image, self.logs, self._restart = node, sandbox_id, image, logs, restart

    async def create(self, *command: str, name: str = "c", **fields: object) -> str:
        config = ContainerConfig(
            metadata=ContainerMetadata(name=name),
            image=ImageSpec(image=self.image),
            command=command,
            log_path=f"{name}.log",
            **{
                "security": ContainerSecurity(
                    namespaces=NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
                ),
                **fields,
            },  # type: ignore[arg-type]
        )
        return await create_container(self.node, self.id, config, None)

    async def run(self, *command: str, **fields: object) -> str:
        container_id = await self.create(*command, **fields)
        await start_container(self.node, container_id)
        return container_id

    async def ended(self, container_id: str) -> int:
        row = self.node.pods.container(container_id)
        await asyncio.wait_for(self.node.live.need(row.sandbox_id).exit_of(row.id).wait(), 20)
        return (await container_status(self.node, container_id)).exit_code

    def log(self, name: str = "c") -> list[str]:
        return [line.split(" ", 3)[3] for line in (self.logs / f"{name}.log").read_text().splitlines()]

    async def restart(self) -> None:
        self.node = await self._restart()


@pytest.fixture
async def pod(restart: Restart, registry: str, tmp_path: Path) -> AsyncIterator[Pod]:
    node = await restart()
    image = f"{registry}/{IMAGE}"
    await pull_image(node.images, image)
    mounts = Path("/proc/self/mountinfo").read_text()
    config = SandboxConfig(metadata=SandboxMetadata(name="pod"), security=HOST_NETWORK, log_directory=str(tmp_path))
    made = Pod(node, await run_sandbox(node, config, ""), image, tmp_path, restart)
    yield made
    await remove_sandbox(made.node, made.id)
    assert os.listdir(made.node.state.pods) == []
    assert os.listdir(made.node.root.containers) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    parent = made.node.cgroups.parent_path("", made.id)
    assert [each for each in Path("/sys/fs/cgroup").glob(f"*{parent}/*") if each.is_dir()] == []


async def test_a_container_runs_logs_and_tells_its_exit_code(pod: Pod) -> None:
    container = await pod.run("sh", "-c", "echo out; echo err >&2; id -u; exit 3")
    assert await pod.ended(container) == 3
    assert sorted(pod.log()) == ["0", "err", "out"]
    status = await container_status(pod.node, container)
    assert (status.state, status.reason) == (ContainerState.EXITED, "Error")
    assert status.created_at < status.started_at <= status.finished_at


async def test_exec_sync_collects_output_and_kills_at_the_deadline(pod: Pod) -> None:
    container = await pod.run("sleep", "1000")
    result = await exec_sync(pod.node, container, ("sh", "-c", "echo hello; echo oops >&2; exit 7"), 0)
    assert (result.stdout, result.stderr, result.exit_code) == (b"hello\n", b"oops\n", 7)
    with pytest.raises(DeadlineExceeded, match="sleep 777"):
        await exec_sync(pod.node, container, ("sh", "-c", "sleep 777 & sleep 777"), 0.3)
    left = await exec_sync(pod.node, container, ("sh", "-c", "ps | grep -c '[s]leep 777'"), 0)
    assert left.stdout.strip() == b"0"
    with pytest.raises(InvalidArgument, match="nope"):
        await exec_sync(pod.node, container, ("nope",), 0)


async def test_a_container_and_its_log_go_on_while_the_daemon_is_away(pod: Pod) -> None:
    container = await pod.run(
        "sh", "-c", "trap 'echo bye; exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    )
    await pod.restart()
    status = await container_status(pod.node, container)
    assert status.state is ContainerState.RUNNING
    assert (await exec_sync(pod.node, container, ("echo", "still"), 0)).stdout == b"still\n"
    (pod.logs / "c.log").rename(pod.logs / "old.log")
    await reopen_container_log(pod.node, container)
    assert (pod.logs / "c.log").exists()
    await stop_container(pod.node, container, 10)
    assert (await container_status(pod.node, container)).exit_code == 5
    lines = [*pod.log("old"), *pod.log("c")]
    assert lines[-1] == "bye"
    assert lines[:-1] == [str(n + 1) for n in range(len(lines) - 1)]


async def test_an_exit_while_the_daemon_is_away_is_not_lost(pod: Pod) -> None:
    container = await pod.run("sh", "-c", "sleep 0.2; exit 9")
    row = pod.node.pods.container(container)
    record = pod.node.state.exit_record(row.sandbox_id, row.id)
    for live in pod.node.live:
        pod.node.live.drop(live.id)
    while not record.exists():
        await asyncio.sleep(0.02)
    await pod.restart()
    assert (await container_status(pod.node, container)).exit_code == 9


async def test_volumes_of_files_and_of_directories_that_are_not_there_yet(pod: Pod) -> None:
    file, directory = pod.logs / "file", pod.logs / "new" / "directory"
    file.write_text("from the host\n")
    mounts = (
        Mount(container_path="/etc/file", host_path=str(file), readonly=True),
        Mount(container_path="/data", host_path=str(directory)),
    )
    value = KeyValue(key="BINARY", value=b"\xff\xfe")
    container = await pod.run(
        "sh", "-c", "cat /etc/file; echo x > /etc/file; echo y > /data/made; sleep 1000", mounts=mounts, envs=(value,)
    )
    assert (
        await exec_sync(
            pod.node,
            container,
            ("sh", "-c", 'until [ -s /data/made ]; do sleep 0.01; done; cat /data/made; printf %s "$BINARY"'),
            0,
        )
    ).stdout == b"y\n\xff\xfe"
    assert file.read_text() == "from the host\n"
    assert pod.log()[0] == "from the host"


async def test_stop_kills_what_ignores_the_signal(pod: Pod) -> None:
    container = await pod.run("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    await stop_container(pod.node, container, 0.2)
    assert (await container_status(pod.node, container)).exit_code == 137
    await stop_container(pod.node, container, 0.2)
    await remove_container(pod.node, container)
    with pytest.raises(NotFound):
        await container_status(pod.node, container)


async def test_memory_limit_ends_a_container_as_oomkilled(pod: Pod) -> None:
    container = await pod.run(
        "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1", resources=LinuxResources(memory_limit=20 << 20)
    )
    await pod.ended(container)
    status = await container_status(pod.node, container)
    assert status.exit_code == 137 or status.exit_code == 1
    limit = await pod.run(
        "sh",
        "-c",
        "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
        name="direct",
        resources=LinuxResources(memory_limit=20 << 20),
    )
    assert await pod.ended(limit) == 137
    assert (await container_status(pod.node, limit)).reason == "OOMKilled"


async def test_stats_of_a_running_container(pod: Pod) -> None:
    container = await pod.run("sh", "-c", "echo data > /file; sleep 1000")
    stats = await container_stats(pod.node, container)
    assert stats.cpu is not None and stats.cpu.usage_core_nano_seconds > 0
    assert stats.memory is not None and stats.memory.usage > 0
    assert stats.writable_layer is not None and stats.writable_layer.inodes_used >= 1


async def test_security_settings_reach_the_process(pod: Pod) -> None:
    security = ContainerSecurity(
        run_as_username="web",
        no_new_privs=True,
        readonly_rootfs=True,
        seccomp=SecurityProfile(),
        masked_paths=("/proc/kcore",),
        readonly_paths=("/proc/sys",),
        namespaces=NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER),
    )
    command = "id; grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; touch /x; echo 1 > /proc/sys/kernel/pid_max; wc -c < /proc/kcore"
    container = await pod.run("sh", "-c", command, security=security)
    await pod.ended(container)
    text = "\n".join(pod.log())
    assert "uid=1000(web) gid=1000(web) groups=1000(web),50000(extra)" in text
    assert "NoNewPrivs:\t1" in text and "Seccomp:\t2" in text and "CapEff:\t0000000000000000" in text
    assert "touch: /x: Read-only file system" in text
    assert "can't create /proc/sys/kernel/pid_max" in text


@pytest.mark.parametrize(
    ("command", "fields", "error", "reason"),
    [
        (("sh",), {"log_path": "../x"}, InvalidArgument, "log_path"),
        (("sh",), {"working_dir": "relative"}, InvalidArgument, "working_dir|cwd"),
        (("sh",), {"security": ContainerSecurity(run_as_username="nobody-here")}, InvalidArgument, "nobody-here"),
        (("sh",), {"image": ImageSpec(image="127.0.0.1:1/no/such:1")}, NotFound, "no/such"),
        (("sh",), {"resources": LinuxResources(memory_limit=1)}, (InvalidArgument, Internal), "memory"),
    ],
)
async def test_a_wrong_config_is_refused_and_leaves_nothing(
    pod: Pod, command: tuple[str, ...], fields: dict[str, object], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        config = {"log_path": "c.log", "image": ImageSpec(image=pod.image), **fields}
        await create_container(
            pod.node, pod.id, ContainerConfig(metadata=ContainerMetadata(name="c"), command=command, **config), None
        )  # type: ignore[arg-type]
    assert list(pod.node.pods.containers()) == []


async def test_a_command_that_is_not_there_fails_the_start(pod: Pod) -> None:
    container = await pod.create("/no/such/command")
    with pytest.raises(InvalidArgument, match="/no/such/command"):
        await start_container(pod.node, container)
    status = await container_status(pod.node, container)
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 127)
    with pytest.raises(FailedPrecondition):
        await start_container(pod.node, container)


async def test_an_attached_caller_loses_nothing_of_a_burst(pod: Pod) -> None:
    """50 MB at once, taken in small bites: neither the container nor anything on the way drops a byte."""
    script = "dd if=/dev/zero bs=1M count=50 2>/dev/null; echo end"
    container_id = await pod.create("/bin/sh", "-c", script)
    session = await attach_container(pod.node, container_id, stdin=False)
    await start_container(pod.node, container_id)
    assert await pod.ended(container_id) == 0
    received, last = 0, b""
    async for stream, data in session.output():
        assert stream == 1
        received, last = received + len(data), data
        await asyncio.sleep(0)
    assert received == (50 << 20) + 4
    assert last.endswith(b"end\n")
    assert not session.fell_behind
    session.close()
