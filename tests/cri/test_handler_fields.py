"""The fields that others skip, with crun and runc as handlers: the same effect as with the built-in one, or a refusal that says what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition
from orlop.cli.client import Client
from orlop.kernel import mount
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import Pod, container_config, pull
from tests.cri.daemons import Orlopd
from tests.cri.flow import pod_config
from tests.cri.harness import Source
from tests.cri.test_handlers import PROGRAMS, handler_config
from tests.cri.test_pod import wait_for
from tests.images.conformance import BUSYBOX

pytestmark = [pytest.mark.cri, pytest.mark.timeout(120)]
ONE = [cri.IDMapping(container_id=0, host_id=100000, length=65536)]
DOCUMENT = """\
cdiVersion: 0.6.0
kind: vendor.com/gpu
devices:
  - name: "0"
    containerEdits:
      env: [GPU=0]
      additionalGids: [4242]
      deviceNodes: [{path: /dev/vendor/gpu0, hostPath: /dev/zero, permissions: r}]
"""


@pytest.fixture(scope="module")
def orlopd(registry: Source) -> Iterator[Orlopd]:
    daemon = Orlopd(registry.certs_d)
    documents = daemon.directory / "cdi"
    documents.mkdir()
    (documents / "vendor.yaml").write_text(DOCUMENT)
    (documents / "vendor.yaml").chmod(0o644)
    daemon.more_config = f'\n[runtime]\ncdi_spec_dirs = ["{documents}"]\n' + handler_config(**PROGRAMS)
    with daemon:
        with Client(daemon.address) as client:
            pull(client, BUSYBOX)
        scope = daemon.scope()
        before = scope.take()
        yield daemon
        daemon.remove_pods()
        assert scope.settle(before) == {}


@pytest.fixture(params=PROGRAMS)
def pod(client: Client, orlopd: Orlopd, request: pytest.FixtureRequest) -> Iterator[Pod]:
    made = Pod.run(client, pod_config(orlopd, f"{request.param}-{os.urandom(4).hex()}"), request.param)
    yield made
    made.remove()


def abilities(pod: Pod) -> cri.RuntimeHandlerFeatures:
    handler = pod.status().runtime_handler
    listed = pod.client.runtime.Status(cri.StatusRequest()).runtime_handlers
    return next(each.features for each in listed if each.name == handler)


def test_an_image_volume_and_a_part_of_one(pod):
    image = cri.ImageSpec(image=BUSYBOX)
    mounts = [
        cri.Mount(container_path="/whole", image=image, readonly=True),
        cri.Mount(container_path="/part", image=image, image_sub_path="etc", readonly=True, mount_options=["noexec"]),
    ]
    made = pod.launch(container_config("main", mounts=mounts))
    assert pod.exec(made, "/whole/bin/busybox", "echo", "ran").stdout == b"ran\n"
    assert b"passwd" in pod.exec(made, "ls", "/part").stdout
    for path in ("/whole", "/part"):
        assert b"Read-only" in pod.exec(made, "touch", f"{path}/new").stderr
    options = pod.exec(made, "grep", " /part ", "/proc/self/mountinfo").stdout.decode().split()[5]
    assert {"ro", "noexec"} <= set(options.split(","))
    assert pod.container_status(made).mounts[0].image.image_ref.startswith("sha256:")


def test_mount_options_and_read_only_trees(pod, tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    mount.mount("tmpfs", str(below), "tmpfs", 0, None)
    try:
        strict = cri.Mount(container_path="/v", host_path=str(tmp_path), mount_options=["noexec", "nodev"])
        made = pod.launch(container_config("strict", mounts=[strict]))
        assert b"denied" in pod.exec(made, "sh", "-c", "cp /bin/busybox /v/echo; /v/echo ran").stderr
        whole = cri.Mount(container_path="/v", host_path=str(tmp_path), readonly=True, recursive_read_only=True)
        if abilities(pod).recursive_read_only_mounts:
            made = pod.launch(container_config("whole", mounts=[whole]))
            assert b"Read-only" in pod.exec(made, "touch", "/v/below/new").stderr
        else:
            with pytest.raises(FailedPrecondition, match=r"mounts\[0\].recursive_read_only"):
                pod.create(container_config("whole", mounts=[whole]))
    finally:
        mount.umount2(str(below), mount.MNT_DETACH)


def test_an_id_mapped_volume_is_mapped_or_refused(pod, tmp_path):
    (tmp_path / "file").touch()
    mapped = cri.Mount(container_path="/v", host_path=str(tmp_path), uidMappings=ONE, gidMappings=ONE)
    try:
        made = pod.launch(container_config("mapped", mounts=[mapped]))
    except FailedPrecondition as error:
        assert "mounts[0].uidMappings" in str(error)
    else:
        assert pod.exec(made, "stat", "-c", "%u:%g", "/v/file").stdout == b"100000:100000\n"


def test_a_device_by_cdi_limits_and_ambient_capabilities(pod):
    config = container_config(
        "main",
        CDI_devices=[cri.CDIDevice(name="vendor.com/gpu=0")],
        annotations={"orlop.dev/ulimits": "nofile=64:128"},
    )
    context = config.linux.security_context
    context.run_as_user.value = 1000
    context.capabilities.add_ambient_capabilities.append("NET_BIND_SERVICE")
    made = pod.launch(config)
    # The hard limit: runc 1.1 now and then gives an exec that as its soft one, because the Go runtime raises its own.
    script = "echo $GPU; ulimit -Hn; head -c 2 /dev/vendor/gpu0 | od -An -tx1; grep CapAmb /proc/self/status; id -G"
    lines = pod.exec(made, "sh", "-c", script).stdout.decode().splitlines()
    assert lines[:2] == ["0", "128"]
    assert lines[2].split() == ["00", "00"]
    assert int(lines[3].split()[1], 16) == 1 << 10
    assert "4242" in lines[4].split()


def test_a_log_has_its_rate(pod):
    config = container_config("loud", ["seq", "100000"], annotations={"orlop.dev/log-rate": "4Ki"})
    made = pod.launch(config)
    wait_for(lambda: pod.container_status(made).state == cri.CONTAINER_EXITED, "it did not end")
    log = Path(pod.config.log_directory) / "loud.log"
    assert b"dropped: more than 4096 bytes a second" in log.read_bytes()
