"""Pull, status, list, remove against a real docker-registry; the applied tree is looked at through a real overlay
mount.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from orlop.base.errors import InvalidArgument, NotFound
from orlop.base.trash import Trash
from orlop.kernel.openat2 import open_in_root
from orlop.kernel.unpack import remove_tree
from orlop.services.images.fs_info import image_fs_info
from orlop.services.images.list import list_images
from orlop.services.images.parts import ImageParts
from orlop.services.images.progress import PullProgress
from orlop.services.images.pull import pull_image
from orlop.services.images.recover import recover_images
from orlop.services.images.remove import prune_layers, remove_image
from orlop.services.images.status import image_status
from orlop.snapshots.overlay import OverlaySnapshots
from orlop.specs.descriptor import Platform
from tests.images.build import Layer, busybox_image, busybox_layer, image, index, push
from tests.images.registry import Registry

pytestmark = pytest.mark.kernel


def snapshots(parts: ImageParts) -> OverlaySnapshots:
    return OverlaySnapshots(parts.paths, parts.trash)


def read(root: int, name: str) -> bytes:
    fd = open_in_root(root, name, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def names(root: int, name: str = ".") -> list[str]:
    fd = open_in_root(root, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def nothing_remains(parts: ImageParts) -> bool:
    paths = parts.paths
    return (
        not any(os.listdir(d) for d in (paths.layers, paths.chains, paths.staging, paths.ingests))
        and not parts.store.digests()
    )


async def test_names_and_users_as_critest_wants_them(parts: ImageParts, registry: Registry) -> None:
    for user, uid, username in (
        ("1003:1004", 1003, ""),
        ("www-data:1004", None, "www-data"),
        ("4294967296", None, "4294967296"),
    ):
        digest = push(registry.host, "user", "latest", busybox_image(User=user))
        record = await pull_image(parts, f"{registry.host}/user")
        assert (record.uid, record.username) == (uid, username)
        assert record.repo_tags == (f"{registry.host}/user:latest",)
        assert record.repo_digests == (f"{registry.host}/user@{digest}",)
        assert record.size > 0 and record.id.startswith("sha256:")
    assert len(await list_images(parts)) == 3
    tags = [record.repo_tags for record in await list_images(parts)]
    assert tags == [(), (), (f"{registry.host}/user:latest",)]


async def test_pull_by_digest_gives_no_tag(parts: ImageParts, registry: Registry) -> None:
    digest = push(registry.host, "bydigest", "latest", busybox_image())
    record = await pull_image(parts, f"{registry.host}/bydigest:ignored@{digest}")
    assert record.repo_tags == () and record.repo_digests == (f"{registry.host}/bydigest@{digest}",)
    for reference in (record.id, record.id[7:], record.id[7:19], record.repo_digests[0]):
        found = await image_status(parts, reference)
        assert found is not None and found.id == record.id
    assert await image_status(parts, f"{registry.host}/bydigest") is None
    with pytest.raises(InvalidArgument):
        await image_status(parts, "Not An Image")


async def test_one_image_with_many_names_is_removed_by_any(parts: ImageParts, registry: Registry) -> None:
    for tag in ("1", "2"):
        push(registry.host, "tags", tag, busybox_image())
    push(registry.host, "other/place", "3", busybox_image())
    for reference in ("tags:1", "tags:2", "other/place:3"):
        await pull_image(parts, f"{registry.host}/{reference}")
    (record,) = await list_images(parts)
    assert len(record.repo_tags) == 3 and len(record.repo_digests) == 2
    await asyncio.gather(*(remove_image(parts, record.id) for _ in range(5)))
    assert await list_images(parts) == [] and await image_status(parts, record.repo_tags[0]) is None
    assert (await image_fs_info(parts)).used_bytes == 0
    await remove_image(parts, record.id)
    assert nothing_remains(parts)


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
@pytest.mark.parametrize("docker", [False, True])
async def test_formats(parts: ImageParts, registry: Registry, compression: str, docker: bool) -> None:
    built = image([Layer().add("hello", b"world").tar()], {}, docker=docker, compression=compression or "none")
    push(registry.host, f"format-{compression}-{docker}".lower().rstrip("-"), "x", built)
    record = await pull_image(parts, f"{registry.host}/format-{compression}-{docker}:x".lower())
    root = snapshots(parts).view("test", record.layer_paths)
    assert read(root, "hello") == b"world"
    os.close(root)


async def test_platform_is_chosen(parts: ImageParts, registry: Registry) -> None:
    arm, intel = (image([Layer().add("arch", a.encode()).tar()], {"Labels": {"a": a}}) for a in ("arm64", "amd64"))
    for each in (arm, intel):
        push(registry.host, "multi", each.digest, each)
    both = index([(arm, "arm64"), (intel, "amd64")])
    digest = push(registry.host, "multi", "latest", both)
    record = await pull_image(parts, f"{registry.host}/multi", platform=Platform(os="linux", architecture="amd64"))
    assert record.config.labels == {"a": "amd64"}
    assert record.repo_digests == (f"{registry.host}/multi@{digest}",)
    with pytest.raises(NotFound, match="no image for linux/s390x, only linux/arm64, linux/amd64"):
        await pull_image(parts, f"{registry.host}/multi", platform=Platform(os="linux", architecture="s390x"))
    with pytest.raises(NotFound, match="not for linux/arm64"):
        await pull_image(
            parts, f"{registry.host}/multi@{intel.digest}", platform=Platform(os="linux", architecture="arm64")
        )


async def test_layers_hide_and_show_through_the_overlay(parts: ImageParts, registry: Registry) -> None:
    lower = (
        Layer()
        .directory("d", "o")
        .add("d/gone", b"1")
        .add("d/stays", b"2")
        .add("o/hidden", b"3")
        .add("swap/x", b"4")
        .tar()
    )
    upper = Layer().add("d/.wh.gone").add("o/.wh..wh..opq").add("o/new", b"5").add("swap", b"now a file").tar()
    push(registry.host, "hide", "latest", image([lower, upper], {}))
    record = await pull_image(parts, f"{registry.host}/hide")
    root = snapshots(parts).prepare("c1", record.layer_paths)  # type: ignore[arg-type]
    assert names(root, "d") == ["stays"] and names(root, "o") == ["new"] and read(root, "swap") == b"now a file"
    os.close(root)
    snapshots(parts).remove("c1")  # type: ignore[arg-type]


async def test_parents_that_a_layer_leaves_out_keep_the_lower_attributes(parts: ImageParts, registry: Registry) -> None:
    lower = Layer()
    lower.add("home", kind=b"5", mode=0o750, uid=10, gid=11).add("home/user", kind=b"5", mode=0o700, uid=1000)
    lower.add("tmp", kind=b"5", mode=0o1777).add("gone", kind=b"5", mode=0o700).add("opaque", kind=b"5", mode=0o700)
    lower.add("plain", kind=b"5", mode=0o755)
    upper = Layer().add("home/user/deep/file", b"1").add("tmp/x").add(".wh.gone").add("plain/x").add("new/x")
    upper.add("opaque/.wh..wh..opq").add("opaque/x")
    again = Layer().add("home/user/other").add("gone/back", b"2")
    layers = [lower.tar(), upper.tar(), again.tar()]
    push(registry.host, "implicit", "latest", image(layers, {}))
    record = await pull_image(parts, f"{registry.host}/implicit")
    assert len(record.layer_paths) == 4 and len(record.diff_ids) == 3
    root = snapshots(parts).prepare("c1", record.layer_paths)  # type: ignore[arg-type]

    def attributes(name: str) -> tuple[int, int, int]:
        fd = open_in_root(root, name, os.O_PATH)
        st = os.fstat(fd)
        os.close(fd)
        return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid

    assert attributes("home") == (0o750, 10, 11)
    assert attributes("home/user") == (0o700, 1000, 0)
    assert attributes("home/user/deep") == (0o755, 0, 0)
    assert attributes("tmp") == (0o1777, 0, 0)
    assert attributes("gone") == (0o755, 0, 0) and names(root, "gone") == ["back"]
    assert attributes("new") == (0o755, 0, 0) and attributes("plain") == (0o755, 0, 0)
    assert names(root, "home/user") == ["deep", "other"] and names(root, "opaque") == ["x"]
    os.close(root)
    snapshots(parts).remove("c1")  # type: ignore[arg-type]
    # The layers are the same without the lower one: no completing directory then.
    push(registry.host, "implicit", "alone", image(layers[1:], {}))
    assert len((await pull_image(parts, f"{registry.host}/implicit:alone")).layer_paths) == 2
    for each in await list_images(parts):
        await remove_image(parts, each.id)
    assert nothing_remains(parts)


async def test_repeated_layers_and_no_layers(parts: ImageParts, registry: Registry) -> None:
    empty, full = bytes(1024), Layer().add("f", b"1").tar()
    push(registry.host, "repeated", "latest", image([empty, full, empty, full], {}))
    record = await pull_image(parts, f"{registry.host}/repeated")
    assert len(record.diff_ids) == 4 and len(record.layer_paths) == 2
    push(registry.host, "nothing", "latest", image([], {}))
    bare = await pull_image(parts, f"{registry.host}/nothing")
    for each in (record, bare):
        root = snapshots(parts).prepare("c", each.layer_paths)  # type: ignore[arg-type]
        assert names(root) == (["f"] if each is record else [])
        os.close(root)
        snapshots(parts).remove("c")  # type: ignore[arg-type]


async def test_pulls_share_work_and_show_progress(parts: ImageParts, registry: Registry) -> None:
    big = Layer().add("big", os.urandom(40 << 20)).tar()
    push(registry.host, "shared", "a", image([big], {"User": "a"}))
    push(registry.host, "shared", "b", image([big], {"User": "b"}))
    seen: list[PullProgress] = []
    records = await asyncio.gather(
        *(pull_image(parts, f"{registry.host}/shared:{tag}", progress=seen.append) for tag in "aabbab")
    )
    assert len({record.id for record in records}) == 2 and len(os.listdir(parts.paths.layers)) == 1
    assert seen[-1].stage == "done" and seen[-1].layers[0].state in ("done", "present")
    assert seen[-1].layers[0].downloaded in (0, seen[-1].layers[0].size)
    before = await pull_image(parts, f"{registry.host}/shared:a")
    assert before.id == records[0].id


def blobs(parts: ImageParts) -> list[Path]:
    return [path for path in parts.paths.blobs.rglob("*") if path.is_file()]


async def test_cancelled_pull_leaves_a_download_to_continue(parts: ImageParts, registry: Registry) -> None:
    push(registry.host, "cancel", "latest", image([Layer().add("big", os.urandom(60 << 20)).tar()], {}))
    moving = asyncio.Event()

    def watch(progress: PullProgress) -> None:
        if any(layer.downloaded > 0 for layer in progress.layers):
            moving.set()

    work = asyncio.ensure_future(pull_image(parts, f"{registry.host}/cancel", progress=watch))
    await moving.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await list_images(parts) == [] and os.listdir(parts.paths.layers) == []
    left = os.listdir(parts.paths.ingests)
    # Half of the blob; or, where the download was faster than its end, the whole one in the store.
    assert [len(name) for name in left] == [64] or any(path.stat().st_size > 50 << 20 for path in blobs(parts))
    resumed: list[int] = []
    record = await pull_image(
        parts, f"{registry.host}/cancel", progress=lambda p: resumed.extend(layer.downloaded for layer in p.layers)
    )
    assert next(size for size in resumed if size) > 0
    assert os.listdir(parts.paths.ingests) == [] and record.unpacked_size == 60 << 20


async def test_one_waiter_leaving_does_not_stop_the_others(parts: ImageParts, registry: Registry) -> None:
    push(registry.host, "leave", "latest", busybox_image())
    first = asyncio.ensure_future(pull_image(parts, f"{registry.host}/leave"))
    second = asyncio.ensure_future(pull_image(parts, f"{registry.host}/leave"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).repo_tags == (f"{registry.host}/leave:latest",)


async def test_layers_of_containers_outlive_their_image(parts: ImageParts, registry: Registry) -> None:
    push(registry.host, "used", "latest", busybox_image())
    record = await pull_image(parts, f"{registry.host}/used")
    used = set(record.diff_ids)
    parts_in_use = type(parts)(
        **{name: getattr(parts, name) for name in parts.__slots__} | {"layers_in_use": lambda: used}
    )
    await remove_image(parts_in_use, record.id)
    assert len(os.listdir(parts.paths.layers)) == 1
    used = set()
    assert prune_layers(parts_in_use) == 1 and nothing_remains(parts)


async def test_a_missing_registry_and_a_missing_image(parts: ImageParts, registry: Registry) -> None:
    with pytest.raises(NotFound, match=f"image {registry.host}/nobody:latest: not found in registry {registry.host}"):
        await pull_image(parts, f"{registry.host}/nobody")
    assert nothing_remains(parts)


async def test_rows_of_another_boot_that_never_reached_the_disk_are_removed(
    parts: ImageParts, registry: Registry
) -> None:
    push(registry.host, "boot", "latest", busybox_image())
    record = await pull_image(parts, f"{registry.host}/boot")
    row = parts.db.row(record.id)
    assert row is not None
    await parts.db.put(row, (), "another-boot")
    await recover_images(parts)
    parts.trash.drain()
    assert await list_images(parts) == [] and nothing_remains(parts)


async def test_images_survive_a_restart(parts: ImageParts, registry: Registry, tmp_path: Path) -> None:
    push(registry.host, "restart", "latest", image([busybox_layer()], {"Cmd": ["sh"]}))
    record = await pull_image(parts, f"{registry.host}/restart")
    from orlop.metadata.images import ImageStore

    again = ImageStore(parts.paths.images_db)
    assert again.row(record.id) == parts.db.row(record.id) and again.names(record.id) == parts.db.names(record.id)
    again.close()
    Trash(parts.paths.trash, remove_tree).close()
