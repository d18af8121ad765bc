"""One pod's whole life over CRI, passing every step that has a fault point; and what a census must find unchanged after it."""

from __future__ import annotations

import time
from pathlib import PurePath

from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.census import SETTLE_SECONDS, Census, Scope, files
from tests.cri.client import CALL_SECONDS, Pod, container_config, pull, sandbox_config
from tests.cri.daemons import Daemon
from tests.images.conformance import BUSYBOX

# SQLite's own side files come and go with its connections.
SIDE_FILES = ("-wal", "-shm", "-journal")
# Where the next address is looked for, and who looks: kept for as long as the network is.
KEPT_FILES = ("lock", "last_reserved_ip")


def pod_config(daemon: Daemon, name: str, host_port: int = 0) -> cri.PodSandboxConfig:
    config = sandbox_config(name, dns_config=cri.DNSConfig(servers=["10.10.10.10"]))
    config.linux.cgroup_parent = daemon.cgroup_parent
    config.log_directory = str(daemon.logs / config.metadata.name)
    if host_port:
        config.port_mappings.add(container_port=80, host_port=host_port)
    return config


def whole_life(client: Client, config: cri.PodSandboxConfig, handler: str = "") -> None:
    """Pull; run; three containers: one is stopped (its grace passes), one, with an image volume, removed while it runs,
    one ends with the pod; remove all."""
    pull(client, BUSYBOX)
    pod = Pod.run(client, config, handler)
    volume = cri.Mount(container_path="/image", image=cri.ImageSpec(image=BUSYBOX), image_sub_path="etc", readonly=True)
    configs = (container_config("stopped"), container_config("removed", mounts=[volume]), container_config("left"))
    stopped, removed, _ = map(pod.launch, configs)
    answer = pod.exec(stopped, "echo", "here")
    assert answer.stdout == b"here\n"
    # sleep is pid 1 of its namespace: SIGTERM passes it by, so both the signal and the kill are reached.
    pod.stop_container(stopped, timeout=1)
    pod.remove_container(stopped)
    pod.remove_container(removed)
    pod.remove()
    spec = cri.ImageSpec(image=BUSYBOX)
    client.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=CALL_SECONDS)


def state_files(daemon: Daemon) -> frozenset[str]:
    """What pods have below the state and root directories; databases, locks and images are not pods'."""
    found = set()
    for directory in (
        daemon.state / "pods",
        daemon.root / "containers",
        daemon.root / "staging",
        daemon.root / "trash",
        daemon.state / "ipam",
        daemon.state / "cni",
    ):
        found |= {
            f"{directory.name}/{name}"
            for name in files(directory)
            if not name.endswith(SIDE_FILES) and not PurePath(name).name.startswith(KEPT_FILES)
        }
    return frozenset(found)


def left_over(daemon: Daemon, scope: Scope, before: Census, files_before: frozenset[str]) -> dict[str, list[str]]:
    """What is there beyond ``before``. Removed layers are deleted behind the answer, from trash/: that is waited for as well."""
    left = scope.settle(before)
    deadline = time.monotonic() + SETTLE_SECONDS
    while (more := sorted(state_files(daemon) - files_before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if more:
        left["files"] = more
    return left
