"""Devices by CDI over CRI: a vendor's document, by field and by annotation, in a running container; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import NotFound, OrlopError, Unimplemented
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import Pod, container_config, sandbox_config
from tests.cri.daemons import Daemon, Orlopd
from tests.cri.harness import Source
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri


class WithCdi(Orlopd):
    @property
    def documents(self) -> Path:
        return self.directory / "cdi"

    def write_config(self) -> None:
        super().write_config()
        self.documents.mkdir(exist_ok=True)
        with open(self.config_path, "a") as file:
            file.write(f'\n[runtime]\ncdi_spec_dirs = ["{self.documents}"]\n')


@pytest.fixture(scope="module")
def orlopd(registry: Source) -> Iterator[Daemon]:
    with WithCdi(registry.certs_d) as daemon:
        scope = daemon.scope()
        before = scope.take()
        yield daemon
        daemon.remove_pods()
        assert scope.settle(before) == {}


@pytest.fixture
def vendor(orlopd, tmp_path) -> Iterator[Path]:
    """vendor.com/gpu: 0 is a second /dev/zero, 1 has a hook."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "driver").write_text("of the host\n")
    written = orlopd.documents / "vendor.yaml"
    written.write_text(
        f"""\
cdiVersion: 0.7.0
kind: vendor.com/gpu
containerEdits:
  env: [VENDOR=all]
  mounts:
    - {{hostPath: {library}, containerPath: /usr/lib/vendor, options: [ro, nosuid, nodev, bind]}}
devices:
  - name: "0"
    containerEdits:
      env: [GPU=0]
      additionalGids: [4242]
      deviceNodes:
        - {{path: /dev/vendor/gpu0, hostPath: /dev/zero, permissions: r, fileMode: 0640}}
  - name: hooked
    containerEdits:
      hooks:
        - {{hookName: createContainer, path: /bin/true}}
"""
    )
    written.chmod(0o644)
    yield library
    written.unlink()


CHECK = "echo $VENDOR $GPU; head -c 4 /dev/vendor/gpu0 | od -An -tx1; stat -c '%a %t:%T' /dev/vendor/gpu0; id -G"


@pytest.mark.parametrize("by", ["field", "annotation"])
def test_a_device_with_all_its_edits(pod, vendor, by):
    asked = (
        {"CDI_devices": [cri.CDIDevice(name="vendor.com/gpu=0")]}
        if by == "field"
        else {"annotations": {"cdi.k8s.io/plugin": "vendor.com/gpu=0"}}
    )
    made = pod.launch(container_config(by, **asked))
    lines = pod.exec(made, "sh", "-c", CHECK).stdout.decode().splitlines()
    assert lines[0] == "all 0"
    assert lines[1].split() == ["00"] * 4
    assert lines[2] == "640 1:5"
    assert "4242" in lines[3].split()
    assert 4242 in pod.container_status(made).user.linux.supplemental_groups
    assert pod.exec(made, "cat", "/usr/lib/vendor/driver").stdout == b"of the host\n"
    assert b"Read-only" in pod.exec(made, "touch", "/usr/lib/vendor/x").stderr
    other = pod.launch(container_config("other"))
    assert b"No such file" in pod.exec(other, "ls", "/dev/vendor").stderr


def test_only_what_the_document_permits_may_be_opened(pod, vendor, orlopd):
    """A device that is closed to containers by default is opened by a document, for reading only."""
    closed = next(each for each in ("/dev/loop-control", "/dev/hwrng", "/dev/rtc0", "/dev/fuse") if Path(each).exists())
    node = {"path": "/dev/opened", "hostPath": closed, "permissions": "r"}
    document = {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/other",
        "devices": [{"name": "r", "containerEdits": {"deviceNodes": [node]}}],
    }
    written = orlopd.documents / "other.json"
    written.write_text(json.dumps(document))
    written.chmod(0o644)
    made = pod.launch(container_config("other", CDI_devices=[cri.CDIDevice(name="vendor.com/other=r")]))
    assert pod.exec(made, "sh", "-c", "exec 3< /dev/opened && echo opened").stdout == b"opened\n"
    answer = pod.exec(made, "sh", "-c", "exec 3> /dev/opened && echo opened")
    assert answer.stdout == b""
    assert b"Operation not permitted" in answer.stderr
    written.unlink()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("vendor.com/gpu=7", NotFound, "container refused: CDI device vendor.com/gpu=7: no document in "),
        (
            "vendor.com/gpu=hooked",
            Unimplemented,
            "container refused: CDI device vendor.com/gpu=hooked: containerEdits.hooks: programs of the host",
        ),
        ("gpu", OrlopError, "container refused: CDI_devices[0]: 'gpu' is not VENDOR/CLASS=DEVICE"),
    ],
)
def test_devices_that_are_refused(pod, vendor, name, error, words):
    with pytest.raises(error) as caught:
        pod.create(container_config("refused", CDI_devices=[cri.CDIDevice(name=name)]))
    assert str(caught.value).startswith(words)


def test_a_pods_annotation_gives_no_device(client, orlopd, vendor):
    """What the pod's author may write is no way to the host's devices."""
    config = sandbox_config(annotations={"cdi.k8s.io/mine": "vendor.com/gpu=0"})
    config.linux.cgroup_parent = orlopd.cgroup_parent
    pod = Pod.run(client, config)
    try:
        made = pod.launch(container_config("main", log_path=""))
        assert b"No such file" in pod.exec(made, "ls", "/dev/vendor").stderr
    finally:
        pod.remove()


def test_from_the_command_line(orlopd, client, vendor):
    words = ["run", "--rm", "--network", "host", "--device", "vendor.com/gpu=0", "--ulimit", "nofile=64:128", BUSYBOX]
    done = subprocess.run(
        [sys.executable, "-m", "orlop.cli", "--address", orlopd.address, *words, "sh", "-c", "echo $GPU; ulimit -n"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"0\n64\n", 0), done.stderr
