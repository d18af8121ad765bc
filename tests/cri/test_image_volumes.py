"""VOLUMEs of an image, on a real orlopd: copied up, the container's own, beside the writable layer, gone with the container."""

from __future__ import annotations

import os

import pytest

from orlop.base.errors import InvalidArgument
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import container_config, pull
from tests.images.build import Layer, busybox_layer, image, push
from tests.images.conformance import PATH
from tests.tools.build import busybox

pytestmark = pytest.mark.cri


@pytest.fixture(scope="module")
def base():
    return busybox_layer(busybox())


@pytest.fixture
def with_volumes(client, registry, base):
    """Push and pull an image with these VOLUMEs and files; returns its name."""
    names = iter(range(100))

    def make(volumes: list[str], layer: Layer | None = None) -> str:
        name = f"{registry.host}/volumes-{os.getpid()}-{next(names)}:1"
        config = {"Cmd": ["sh"], "Env": [PATH], "Volumes": {each: {} for each in volumes}}
        built = image([base, *([layer.tar()] if layer else [])], config)
        push(registry.host, name.split("/", 1)[1].rsplit(":", 1)[0], "1", built)
        pull(client, name)
        return name

    return make


def mounted(pod, container: str, path: str) -> str:
    """The type of the file system that is mounted at a path, "" when nothing is."""
    lines = pod.exec(container, "cat", "/proc/self/mountinfo").stdout.decode().splitlines()
    found = [line.split(" - ")[1].split()[0] for line in lines if line.split()[4] == path]
    return found[-1] if found else ""


def test_a_volume_begins_with_what_the_image_has(pod, with_volumes, orlopd):
    layer = Layer().directory("data", "data/deep", mode=0o750)
    layer.add("data/deep/file", b"of the image\n", mode=0o640, uid=1000, gid=1000)
    name = with_volumes(["/data", "/made", "relative/"], layer)
    first = pod.launch(container_config("first", image=name))
    second = pod.launch(container_config("second", image=name))
    for path in ("/data", "/made", "/relative"):
        assert mounted(pod, first, path) not in ("", "overlay")
    assert pod.exec(first, "cat", "/data/deep/file").stdout == b"of the image\n"
    assert pod.exec(first, "stat", "-c", "%u:%g %a", "/data/deep/file").stdout == b"1000:1000 640\n"
    assert pod.exec(first, "stat", "-c", "%a", "/data").stdout == b"750\n"
    assert pod.exec(first, "sh", "-c", "echo mine > /data/deep/file; echo more > /made/x").exit_code == 0
    assert pod.exec(second, "cat", "/data/deep/file").stdout == b"of the image\n"
    volumes = orlopd.root / "containers" / first / "volumes"
    assert len(os.listdir(volumes)) == 3
    # What the config asked for is what the status shows.
    assert list(pod.container_status(first).mounts) == []
    orlopd.kill()
    orlopd.start()
    assert pod.exec(first, "cat", "/data/deep/file").stdout == b"mine\n"
    pod.stop_container(first)
    pod.remove_container(first)
    assert not volumes.parent.exists()
    assert pod.exec(second, "cat", "/data/deep/file").stdout == b"of the image\n"


def test_a_mount_of_the_config_takes_its_place(pod, with_volumes, tmp_path):
    name = with_volumes(["/data/", "/other"], Layer().add("data/file", b"of the image"))
    (tmp_path / "of-the-host").write_text("")
    mounts = [cri.Mount(container_path="/data", host_path=str(tmp_path))]
    container = pod.launch(container_config("main", image=name, mounts=mounts))
    assert pod.exec(container, "ls", "/data").stdout == b"of-the-host\n"
    assert mounted(pod, container, "/other") not in ("", "overlay")


def test_it_is_writable_under_a_read_only_root(pod, with_volumes):
    name = with_volumes(["/data"], Layer().directory("data", mode=0o777))
    context = cri.LinuxContainerSecurityContext(readonly_rootfs=True)
    container = pod.launch(
        container_config("main", image=name, linux=cri.LinuxContainerConfig(security_context=context))
    )
    assert pod.exec(container, "touch", "/data/x").exit_code == 0
    assert pod.exec(container, "touch", "/x").exit_code != 0


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ("/etc/passwd", "image VOLUME /etc/passwd: /etc/passwd: cannot become a volume: not a directory"),
        ("/", "VOLUME '/': is the container's root"),
        ("/a/../../b", r"VOLUME '/a/\.\./\.\./b'"),
    ],
)
def test_volumes_that_cannot_be(volume, words, pod, with_volumes, orlopd):
    name = with_volumes([volume])
    before = set(os.listdir(orlopd.root / "containers"))
    with pytest.raises(InvalidArgument, match=words) as caught:
        pod.create(container_config("bad", image=name))
    assert str(caught.value).startswith("container bad: ")
    assert set(os.listdir(orlopd.root / "containers")) == before
