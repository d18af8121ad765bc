"""Images that can't be pulled, through a real orlopd: unknown, untrue, truncated, hostile; a registry that hangs or is not there.

What a registry can lie about is gone through in tests/kernel/registry/test_lying.py; here a client of the CRI is told, in time.
"""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
import threading
import time
from collections.abc import Iterator

import pytest
from aiohttp import web

from orlop.base.errors import (
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OrlopError,
    ResourceExhausted,
    Unavailable,
)
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, container_config, pull
from tests.images.build import Image, Layer, digest_of, image
from tests.images.conformance import BUSYBOX
from tests.images.registry import free_port
from tests.kernel.registry.test_lying import Liar, serve

pytestmark = [pytest.mark.cri, pytest.mark.usefixtures("nothing_remains")]

SMALL = image([Layer().add("f", os.urandom(200_000)).tar()], {})


class Served(Liar):
    """A registry of this process, in a thread of its own: the client of the tests is synchronous."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = threading.Event()
        """Set when a request of ours was given up by its client."""

    async def hang(self, request: web.Request) -> web.StreamResponse | None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return None


@pytest.fixture
def liar() -> Iterator[Served]:
    made = Served()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(serve(made, handler_cancellation=True), loop).result(20)
    yield made
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


@pytest.fixture(autouse=True)
def no_image_remains(client, orlopd) -> Iterator[None]:
    yield
    images = client.images.ListImages(cri.ListImagesRequest(), timeout=CALL_SECONDS).images
    assert [tag for each in images for tag in each.repo_tags] == [BUSYBOX]
    assert len(os.listdir(orlopd.root / "layers")) == 1
    deadline = time.monotonic() + 20
    while os.listdir(orlopd.root / "staging") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(orlopd.root / "staging") == []


def layer_digest(each: Image) -> str:
    return str(json.loads(each.manifest)["layers"][0]["digest"])


def fails(client, reference: str, kind: type[OrlopError], words: str, seconds: float = CALL_SECONDS) -> None:
    with pytest.raises(kind, match=words) as caught:
        pull(client, reference, seconds)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(("image ", "image.image: ")), "the image is named first"


REPOSITORY = BUSYBOX.rsplit(":", 1)[0]


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        (f"{REPOSITORY}:nosuch", NotFound, f"image {REPOSITORY}:nosuch: not found in registry"),
        (f"{REPOSITORY}@sha256:{'0' * 64}", NotFound, f"@sha256:{'0' * 64}: not found in registry"),
        ("gcr.io/no/such/image:1", NotFound, "image gcr.io/no/such/image:1: not found"),
        (f"{REPOSITORY}@sha256:zz", InvalidArgument, "digest 'sha256:zz': sha256 needs 64 lower-case hex digits"),
        ("Not An Image", InvalidArgument, "image reference 'Not An Image'"),
        ("", InvalidArgument, "image.image: is empty"),
    ],
)
def test_unknown_and_unreadable_references(client, reference, kind, words):
    fails(client, reference, kind, words)


def test_a_registry_that_is_not_there(client):
    host = f"127.0.0.1:{free_port()}"
    fails(client, f"{host}/x:1", Unavailable, f"image {host}/x:1: registry {host}: cannot connect: connection refused")


def test_a_layer_that_is_another(client, liar):
    name = layer_digest(SMALL)
    other = bytearray(SMALL.blobs[name])
    other[len(other) // 2] ^= 1
    liar.add("1", Image(SMALL.manifest, SMALL.media_type, {**SMALL.blobs, name: bytes(other)}))
    fails(
        client, f"{liar.host}/x:1", DataLoss, f"image {liar.host}/x:1: .*layer {name}: content has the digest sha256:"
    )


def test_a_layer_that_is_truncated(client, liar):
    name = layer_digest(SMALL)
    liar.add("1", Image(SMALL.manifest, SMALL.media_type, {**SMALL.blobs, name: SMALL.blobs[name][:1000]}))
    fails(
        client,
        f"{liar.host}/x:1",
        DataLoss,
        f"image {liar.host}/x:1: blob {name}: .* 1000 bytes, not {len(SMALL.blobs[name])}",
    )


def test_a_diff_id_that_is_another(client, liar):
    config_digest = str(json.loads(SMALL.manifest)["config"]["digest"])
    config = json.loads(SMALL.blobs[config_digest])
    config["rootfs"]["diff_ids"] = ["sha256:" + "1" * 64]
    data = json.dumps(config).encode()
    manifest = json.loads(SMALL.manifest)
    manifest["config"] |= {"digest": digest_of(data), "size": len(data)}
    liar.add("1", Image(json.dumps(manifest).encode(), SMALL.media_type, {**SMALL.blobs, digest_of(data): data}))
    fails(client, f"{liar.host}/x:1", DataLoss, f"image {liar.host}/x:1: .*diffID sha256:.*, not sha256:111")


HOSTILE = {
    "climbs": (Layer().add("../../../etc/orlop-hostile", b"x"), "'../../../etc/orlop-hostile': name is outside"),
    "absolute link target": (
        Layer().add("x", kind=tarfile.LNKTYPE, link="/../../etc/passwd"),
        "'x': ",
    ),
    "through a symlink": (
        Layer().add("door", kind=tarfile.SYMTYPE, link="/etc").add("door/orlop-hostile", b"x"),
        "",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_layers(case, client, liar):
    layer, words = HOSTILE[case]
    given = liar.add("1", image([layer.tar()], {}))
    assert given
    if words:
        fails(client, f"{liar.host}/x:1", InvalidArgument, f"image {liar.host}/x:1: .*entry .*{words}")
    else:
        # Not refused: the link is not followed, so what is below it lands in the layer.
        pull(client, f"{liar.host}/x:1")
        spec = cri.ImageSpec(image=f"{liar.host}/x:1")
        client.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=CALL_SECONDS)
    assert not os.path.exists("/etc/orlop-hostile")


def test_a_name_without_end(client, liar):
    liar.add("1", image([Layer().add("a/" * 3000 + "x", b"").tar()], {}))
    words = f"image {liar.host}/x:1: layer sha256:.*: entry .*: PAX path is longer than 4096 bytes"
    fails(client, f"{liar.host}/x:1", ResourceExhausted, words)


@pytest.mark.parametrize("where", ["manifests", "blobs"])
def test_a_registry_that_hangs_ends_with_the_callers_deadline(where, client, liar):
    liar.add("1", SMALL)

    async def hook(request: web.Request) -> web.StreamResponse | None:
        return await liar.hang(request) if f"/{where}/" in request.path else None

    liar.hook = hook
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        pull(client, f"{liar.host}/x:1", seconds=1.0)
    assert time.monotonic() - began < 30
    assert liar.gone.wait(20), "the daemon still waits for the registry, though nobody waits for the daemon"
    liar.hook = None
    pull(client, f"{liar.host}/x:1")
    spec = cri.ImageSpec(image=f"{liar.host}/x:1")
    client.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=CALL_SECONDS)


def test_a_container_of_an_image_of_another_platform(client, liar, shared_pod):
    config_digest = str(json.loads(SMALL.manifest)["config"]["digest"])
    config = json.loads(SMALL.blobs[config_digest]) | {"architecture": "s390x"}
    data = json.dumps(config).encode()
    manifest = json.loads(SMALL.manifest)
    manifest["config"] |= {"digest": digest_of(data), "size": len(data)}
    liar.add("1", Image(json.dumps(manifest).encode(), SMALL.media_type, {**SMALL.blobs, digest_of(data): data}))
    fails(client, f"{liar.host}/x:1", NotFound, "s390x")
    with pytest.raises(NotFound, match="is not present"):
        shared_pod.create(container_config("bad", image=f"{liar.host}/x:1"))


def test_removing_what_is_not_there_is_fine(client):
    spec = cri.ImageSpec(image="no.such.registry/image:1")
    client.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=CALL_SECONDS)
    answer = client.images.ImageStatus(cri.ImageStatusRequest(image=spec), timeout=CALL_SECONDS)
    assert not answer.HasField("image")
