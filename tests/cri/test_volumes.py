"""Mounts over CRI, on a real orlopd: read-only trees, mount options, id-mapped mounts, image volumes; and each refusal by code and field."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.kernel import mount
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import container_config, pull

pytestmark = pytest.mark.cri
OTHER = "gcr.io/k8s-staging-cri-tools/test-image-1:latest"
VOLUME = "gcr.io/k8s-staging-cri-tools/test-image-tag:all"
ONE = [cri.IDMapping(container_id=0, host_id=100000, length=65536)]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with another mount below it."""
    below = tmp_path / "tree" / "below"
    below.mkdir(parents=True)
    mount.mount("tmpfs", str(below), "tmpfs", 0, None)
    yield tmp_path / "tree"
    mount.umount2(str(below), mount.MNT_DETACH)


def launched(pod, *mounts: cri.Mount, name: str = "main") -> str:
    return pod.launch(container_config(name, mounts=mounts))


def refusal(pod, *mounts: cri.Mount, error: type[OrlopError] = InvalidArgument) -> str:
    with pytest.raises(error) as caught:
        pod.create(container_config("refused", mounts=mounts))
    return str(caught.value)


def can_write(pod, container: str, path: str) -> bool:
    answer = pod.exec(container, "sh", "-c", f"touch {path}/new")
    assert answer.exit_code == 0 or b"Read-only file system" in answer.stderr, answer.stderr
    return answer.exit_code == 0


# ---- volumes of the host


def test_recursive_read_only_reaches_the_mounts_below(pod, tree):
    plain = launched(pod, cri.Mount(container_path="/v", host_path=str(tree), readonly=True), name="plain")
    assert not can_write(pod, plain, "/v")
    assert can_write(pod, plain, "/v/below")
    whole = cri.Mount(container_path="/v", host_path=str(tree), readonly=True, recursive_read_only=True)
    deep = launched(pod, whole, name="deep")
    assert not can_write(pod, deep, "/v")
    assert not can_write(pod, deep, "/v/below")
    assert pod.container_status(deep).mounts[0] == whole


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"readonly": False}, "needs readonly"),
        ({"propagation": cri.PROPAGATION_HOST_TO_CONTAINER}, "needs PROPAGATION_PRIVATE, not HOST_TO_CONTAINER"),
        ({"propagation": cri.PROPAGATION_BIDIRECTIONAL}, "needs PROPAGATION_PRIVATE, not BIDIRECTIONAL"),
    ],
)
def test_recursive_read_only_is_refused_where_it_would_not_hold(pod, tmp_path, fields, words):
    wanted = {"container_path": "/v", "host_path": str(tmp_path), "readonly": True, **fields}
    said = refusal(pod, cri.Mount(recursive_read_only=True, **wanted))
    assert said == f"container refused: config.mounts[0].recursive_read_only: {words}"


def test_mount_options_hold_in_the_whole_volume(pod, tree):
    program = "cp /bin/busybox /v/below/echo; chmod 4755 /v/below/echo; mknod /v/below/null c 1 3"
    bare = launched(pod, cri.Mount(container_path="/v", host_path=str(tree)), name="bare")
    assert pod.exec(bare, "sh", "-c", f"{program}; /v/below/echo ran; echo x > /v/below/null").stdout == b"ran\n"
    options = ["noexec", "nodev", "nosuid"]
    strict = launched(pod, cri.Mount(container_path="/v", host_path=str(tree), mount_options=options), name="strict")
    answer = pod.exec(strict, "sh", "-c", "/v/below/echo ran; echo x > /v/below/null")
    assert answer.stdout == b""
    assert answer.stderr.count(b"Permission denied") == 2
    for line in pod.exec(strict, "grep", " /v", "/proc/self/mountinfo").stdout.decode().splitlines():
        assert set(options) <= set(line.split()[5].split(","))
    assert list(pod.container_status(strict).mounts[0].mount_options) == options
    said = refusal(pod, cri.Mount(container_path="/v", host_path=str(tree), mount_options=["noexec", "exec"]))
    assert said == "container refused: config.mounts[0].mount_options[1]: 'exec' is not noexec, nodev or nosuid"


def test_an_id_mapped_volume_shows_other_owners_and_writes_through(pod, tmp_path):
    (tmp_path / "of-root").touch()
    mapped = cri.Mount(container_path="/v", host_path=str(tmp_path), uidMappings=ONE, gidMappings=ONE)
    config = container_config("mapped", mounts=[mapped])
    config.linux.security_context.run_as_user.value = 100007
    config.linux.security_context.run_as_group.value = 100008
    tmp_path.chmod(0o777)
    made = pod.launch(config)
    assert pod.exec(made, "stat", "-c", "%u:%g", "/v/of-root").stdout == b"100000:100000\n"
    assert pod.exec(made, "touch", "/v/mine").exit_code == 0
    owner = os.stat(tmp_path / "mine")
    assert (owner.st_uid, owner.st_gid) == (7, 8)
    # A user that the mapping does not hold cannot own anything there.
    outside = pod.launch(container_config("outside", mounts=[mapped]))
    answer = pod.exec(outside, "touch", "/v/other")
    assert b"Value too large" in answer.stderr
    assert pod.container_status(made).mounts[0] == mapped


@pytest.mark.parametrize(
    ("source", "uids", "gids", "error", "words"),
    [
        ("/proc/sys", ONE, ONE, FailedPrecondition, "/proc/sys: its file system cannot be id-mapped"),
        ("/tmp", ONE, [], InvalidArgument, "uidMappings and gidMappings go together"),
        ("/tmp", ONE * 2, ONE, InvalidArgument, "uid_map: the kernel refuses"),
        ("/tmp", [cri.IDMapping()], ONE, InvalidArgument, "uidMappings[0].length: 0"),
    ],
)
def test_id_mapped_volumes_that_are_refused(pod, source, uids, gids, error, words):
    said = refusal(
        pod, cri.Mount(container_path="/v", host_path=source, uidMappings=uids, gidMappings=gids), error=error
    )
    assert said.startswith("container refused: mounts[0]"), said
    assert words in said


# ---- image volumes


def image_mount(sub_path: str = "", **fields) -> cri.Mount:
    wanted = {"container_path": "/image", "readonly": True, "image": cri.ImageSpec(image=VOLUME), **fields}
    return cri.Mount(image_sub_path=sub_path, **wanted)


def test_an_image_volume_is_read_only_executable_and_names_its_digest(pod, client):
    digest = pull(client, VOLUME)
    made = launched(pod, image_mount())
    assert pod.exec(made, "cat", "/image/image-tag-all").stdout == b"tag-all"
    assert pod.exec(made, "/image/bin/busybox", "echo", "ran").stdout == b"ran\n"
    assert not can_write(pod, made, "/image")
    shown = pod.container_status(made).mounts[0]
    assert (shown.image.image, shown.image.image_ref) == (VOLUME, digest)


def test_a_part_of_an_image(pod, client):
    pull(client, VOLUME)
    made = launched(
        pod, image_mount("etc", mount_options=["noexec"]), image_mount("etc/passwd", container_path="/users")
    )
    assert b"passwd" in pod.exec(made, "ls", "/image").stdout
    assert pod.exec(made, "cat", "/users").stdout.startswith(b"root:")
    assert not can_write(pod, made, "/image")
    mounted = pod.exec(made, "grep", " /image ", "/proc/self/mountinfo").stdout.decode().split()[5]
    assert {"ro", "noexec"} <= set(mounted.split(","))
    assert pod.container_status(made).mounts[0].image_sub_path == "etc"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (
            image_mount(readonly=False),
            InvalidArgument,
            "container refused: config.mounts[0].readonly: must be true: an image volume can't be written",
        ),
        (
            image_mount("no/such"),
            NotFound,
            "container refused: mounts: /image: image_sub_path: 'no/such' is not in the image",
        ),
        (
            image_mount("etc/../.."),
            InvalidArgument,
            "container refused: mounts: /image: image_sub_path: 'etc/../..' is not a path below the image's root",
        ),
        (
            image_mount(image=cri.ImageSpec(image="registry.k8s.io/absent:1")),
            NotFound,
            "container refused: mounts: /image: image 'registry.k8s.io/absent:1' is not present",
        ),
        (
            image_mount(propagation=cri.PROPAGATION_BIDIRECTIONAL),
            InvalidArgument,
            "container refused: mounts[0].propagation: an image volume is private",
        ),
    ],
)
def test_image_volumes_that_are_refused(pod, client, given, error, said):
    pull(client, VOLUME)
    assert refusal(pod, given, error=error) == said


def test_an_id_mapped_image_volume(pod, client):
    pull(client, VOLUME)
    made = launched(pod, image_mount(uidMappings=ONE, gidMappings=ONE))
    assert pod.exec(made, "stat", "-c", "%u:%g", "/image/etc/passwd").stdout == b"100000:100000\n"


def test_an_image_volume_outlives_daemon_and_image_and_goes_with_its_container(pod, client, orlopd):
    pull(client, VOLUME)
    layers = orlopd.root / "layers"
    made = launched(pod, image_mount())
    client.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=VOLUME)))
    held = set(os.listdir(layers))
    orlopd.kill()
    orlopd.start()
    assert set(os.listdir(layers)) == held
    assert pod.exec(made, "cat", "/image/image-tag-all").stdout == b"tag-all"
    digest = pod.container_status(made).mounts[0].image.image_ref
    assert digest.startswith("sha256:")
    pod.remove_container(made)
    # The next removal of an image clears what nobody uses any more.
    pull(client, OTHER)
    client.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=OTHER)))
    assert len(os.listdir(layers)) < len(held)
