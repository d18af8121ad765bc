"""Verbose facts that users of crictl inspect know, the node's status, figures of every kind, and what file systems hold."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, container_config
from tests.cri.test_pod import wait_for
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri


def facts(answer) -> dict:
    assert set(answer.info) == {"info"}
    return json.loads(answer.info["info"])


def test_a_container_verbose(client, pod):
    config = container_config("seen", ["sleep", "1000"], labels={"a": "b"}, envs=[cri.KeyValue(key="K", value=b"v")])
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    made = pod.launch(config)
    request = cri.ContainerStatusRequest(container_id=made, verbose=True)
    answer = client.runtime.ContainerStatus(request, timeout=CALL_SECONDS)
    info = facts(answer)
    assert info["sandboxID"] == pod.id
    assert Path(f"/proc/{info['pid']}/comm").read_text() == "sleep\n"
    assert info["snapshotKey"] == made
    assert info["runtimeType"] == "orlop"
    assert info["runtimeSpec"]["process"]["args"] == ["sleep", "1000"]
    assert info["config"]["metadata"] == {"name": "seen"}
    assert info["config"]["labels"] == {"a": "b"}
    assert info["config"]["command"] == ["sleep", "1000"]
    assert info["config"]["linux"]["resources"]["memory_limit_in_bytes"] == str(64 << 20)
    assert Path(info["writableLayer"]).is_dir()
    pod.stop_container(made)
    ended = facts(client.runtime.ContainerStatus(request, timeout=CALL_SECONDS))
    assert ended["pid"] == 0
    quiet = client.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=made), timeout=CALL_SECONDS)
    assert not quiet.info


def test_a_sandbox_verbose_with_statuses_and_their_time(client, pod, container):
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    before = time.time_ns()
    answer = client.runtime.PodSandboxStatus(request, timeout=CALL_SECONDS)
    assert before <= answer.timestamp <= time.time_ns()
    assert [(each.id, each.state) for each in answer.containers_statuses] == [(container, cri.CONTAINER_RUNNING)]
    info = facts(answer)
    assert os.readlink(f"/proc/{info['pid']}/ns/net") == os.readlink(info["netns"])
    assert info["runtimeType"] == "orlop"
    assert info["netNamespaceClosed"] is False
    assert info["config"]["metadata"]["name"] == pod.config.metadata.name
    assert info["config"]["linux"]["cgroup_parent"] == pod.config.linux.cgroup_parent
    assert answer.status.network.ip in json.dumps(info["network"])
    pod.stop()
    stopped = facts(client.runtime.PodSandboxStatus(request, timeout=CALL_SECONDS))
    assert stopped["netNamespaceClosed"] is True


def test_an_image_verbose_has_its_own_document(client, pod):
    request = cri.ImageStatusRequest(image=cri.ImageSpec(image=BUSYBOX), verbose=True)
    info = facts(client.images.ImageStatus(request, timeout=CALL_SECONDS))
    spec = info["imageSpec"]
    assert spec["os"] == "linux"
    assert spec["architecture"]
    assert spec["rootfs"]["diff_ids"] == info["diffIDs"]
    assert "config" in spec
    assert info["chainID"].startswith("sha256:")
    if len(info["diffIDs"]) == 1:
        assert info["chainID"] == info["diffIDs"][0]
    assert all(Path(each).is_dir() for each in info["layerPaths"])


def test_the_nodes_status_verbose(client, orlopd):
    quiet = client.runtime.Status(cri.StatusRequest(), timeout=CALL_SECONDS)
    assert not quiet.info
    assert {each.name for each in quiet.runtime_handlers} >= {"", "orlop"}
    assert quiet.features.supplemental_groups_policy
    answer = client.runtime.Status(cri.StatusRequest(verbose=True), timeout=CALL_SECONDS)
    info = {name: json.loads(text) for name, text in answer.info.items()}
    assert info["config"]["stateDir"] == str(orlopd.state)
    probed = info["features"]
    assert answer.features.mount_options == probed["mount_options"]["available"]
    for each in answer.runtime_handlers:
        if each.name in ("", "orlop"):
            assert each.features.recursive_read_only_mounts == probed["recursive_read_only"]["available"]
    assert all(each["reason"] for each in probed.values())
    assert info["network"]["ready"] is True


def test_file_systems_of_images_and_of_writable_layers(client, pod):
    def filesystems():
        answer = client.images.ImageFsInfo(cri.ImageFsInfoRequest(), timeout=CALL_SECONDS)
        (images,), (containers,) = answer.image_filesystems, answer.container_filesystems
        return images, containers

    images, containers = filesystems()
    assert images.used_bytes.value > 0
    assert images.inodes_used.value > 0
    assert images.timestamp > 0
    assert Path(images.fs_id.mountpoint).is_dir()
    assert containers.fs_id.mountpoint == images.fs_id.mountpoint
    made = pod.launch(container_config("fill", ["sh", "-c", "dd if=/dev/zero of=/file bs=1M count=4; sleep 1000"]))
    before = containers.used_bytes.value
    wait_for(lambda: filesystems()[1].used_bytes.value >= before + (4 << 20), "the file was not counted", seconds=20)
    stats = client.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=made), timeout=CALL_SECONDS).stats
    assert stats.writable_layer.fs_id.mountpoint == containers.fs_id.mountpoint


def test_figures_of_every_kind(client, pod, container):
    def stats():
        return client.runtime.PodSandboxStats(cri.PodSandboxStatsRequest(pod_sandbox_id=pod.id)).stats

    pod.exec(
        container,
        "sh",
        "-c",
        "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo x | nc -u -w 1 10.255.255.254 9; true",
    )
    wait_for(lambda: stats().linux.network.default_interface.tx_bytes.value > 0, "no traffic was counted")
    wait_for(lambda: stats().linux.cpu.HasField("usage_nano_cores"), "no rate of CPU")
    found = stats()
    assert found.attributes.metadata.name == pod.config.metadata.name
    assert found.linux.cpu.usage_core_nano_seconds.value > 0
    assert found.linux.memory.working_set_bytes.value > 0
    assert found.linux.process.process_count.value >= 1
    assert found.linux.network.default_interface.name == "eth0"
    assert "eth0" not in {each.name for each in found.linux.network.interfaces}
    (own,) = found.linux.containers
    assert own.attributes.id == container
    assert own.cpu.timestamp > 0
    assert own.memory.timestamp > 0
    assert own.memory.page_faults.value > 0
    assert own.writable_layer.inodes_used.value >= 1
    if Path("/proc/pressure/cpu").exists():
        for usage in (own.cpu, own.memory, own.io):
            assert usage.HasField("psi")
    if "SwapTotal:              0 kB" not in Path("/proc/meminfo").read_text():
        assert own.HasField("swap")
