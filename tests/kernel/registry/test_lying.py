"""Registries that lie, stall, refuse or redirect: each is a clear error or is survived, and no secret leaves its
host.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from orlop.base import limits
from orlop.base.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from orlop.registry.credentials import Credentials
from orlop.services.images.list import list_images
from orlop.services.images.parts import ImageParts
from orlop.services.images.pull import pull_image
from tests.images.build import Image, Layer, digest_of, image, index

pytestmark = pytest.mark.kernel

Answer = web.StreamResponse | None
Hook = Callable[[web.Request], Awaitable[Answer]]


class Liar:
    """A registry in this process; ``hook`` may answer before it does. It keeps what it was asked."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.hook: Hook | None = None
        self.host = ""

    def add(self, tag: str, given: Image) -> Image:
        self.images[tag] = self.images[given.digest] = given
        return given

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, {k.lower(): v for k, v in request.headers.items()}))
        if self.hook is not None and (answer := await self.hook(request)) is not None:
            return answer
        _, kind, name = request.path.rsplit("/", 2)
        if kind == "manifests":
            found = self.images.get(name)
            if found is None:
                return web.Response(status=404)
            headers = {"Docker-Content-Digest": found.digest, "Content-Type": found.media_type}
            return web.Response(body=found.manifest, headers=headers)
        blob = next((each.blobs[name] for each in self.images.values() if name in each.blobs), None)
        return web.Response(status=404) if blob is None else send(request, blob)


def send(request: web.Request, blob: bytes) -> web.Response:
    wanted = request.headers.get("Range")
    if not wanted:
        return web.Response(body=blob)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    begin, end = int(first), int(last)
    headers = {"Content-Range": f"bytes {begin}-{end}/{len(blob)}"}
    return web.Response(status=206, body=blob[begin : end + 1], headers=headers)


async def serve(liar: Liar, context: ssl.SSLContext | None = None, **options: bool) -> web.AppRunner:
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", liar.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1, **options)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    liar.host = f"127.0.0.1:{port}"
    return runner


@pytest_asyncio.fixture
async def liar() -> AsyncIterator[Liar]:
    made = Liar()
    runner = await serve(made)
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def other() -> AsyncIterator[Liar]:
    made = Liar()
    runner = await serve(made)
    yield made
    await runner.cleanup()


BIG = image([Layer().add("big", os.urandom(40 << 20)).tar()], {}, compression="none")
SMALL = image([Layer().add("f", b"1" * 5000).tar()], {})


def layer_of(each: Image) -> str:
    return str(json.loads(each.manifest)["layers"][0]["digest"])


async def fails(parts: ImageParts, reference: str, kind: type[OrlopError], words: str) -> None:
    with pytest.raises(kind, match=words):
        await pull_image(parts, reference)
    assert await list_images(parts) == []
    assert os.listdir(parts.paths.layers) == []


def on_blob(name: str, action: Hook) -> Hook:
    async def hook(request: web.Request) -> Answer:
        return await action(request) if request.path.endswith(name) else None

    return hook


# content


async def test_wrong_bytes(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", SMALL)
    name = layer_of(SMALL)

    async def spoil(request: web.Request) -> Answer:
        data = bytearray(SMALL.blobs[name])
        data[len(data) // 2] ^= 1
        return web.Response(body=bytes(data))

    liar.hook = on_blob(name, spoil)
    await fails(parts, f"{liar.host}/x:x", DataLoss, f"layer {name}: content has the digest")
    assert os.listdir(parts.paths.ingests) == []


async def test_wrong_diff_id(parts: ImageParts, liar: Liar) -> None:
    built = image([Layer().add("f", b"1").tar()], {})
    config = json.loads(next(data for data in built.blobs.values() if data.startswith(b"{")))
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    text = json.dumps(config).encode()
    manifest = json.loads(built.manifest)
    manifest["config"] |= {"digest": digest_of(text), "size": len(text)}
    liar.add("x", Image(json.dumps(manifest).encode(), built.media_type, built.blobs | {digest_of(text): text}))
    await fails(parts, f"{liar.host}/x:x", DataLoss, "has the diffID sha256:.*, not sha256:000")


async def test_manifest_of_another_digest(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", SMALL)

    async def lie(request: web.Request) -> Answer:
        if "/manifests/" not in request.path:
            return None
        return web.Response(
            body=SMALL.manifest + b" ",
            headers={"Docker-Content-Digest": SMALL.digest, "Content-Type": SMALL.media_type},
        )

    liar.hook = lie
    await fails(parts, f"{liar.host}/x:x", DataLoss, "does not have the digest")
    await fails(parts, f"{liar.host}/x@{SMALL.digest}", DataLoss, "does not have the digest")


@pytest.mark.parametrize("size", [-1, 1])
async def test_wrong_sizes(parts: ImageParts, liar: Liar, size: int) -> None:
    manifest = json.loads(SMALL.manifest)
    manifest["layers"][0]["size"] += size
    liar.add("x", Image(json.dumps(manifest).encode(), SMALL.media_type, SMALL.blobs))
    await fails(parts, f"{liar.host}/x:x", DataLoss, "bytes, not|sends more")


async def test_hostile_layer_is_named(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", image([Layer().add("../../etc/orlop", b"1").tar()], {}))
    await fails(parts, f"{liar.host}/x:x", InvalidArgument, "entry '../../etc/orlop': name is outside of the layer")


async def test_layers_that_are_no_archive(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", image([b"not a tar at all" * 100], {}))
    await fails(parts, f"{liar.host}/x:x", DataLoss, "checksum")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"manifests": []}, InvalidArgument, "both an index and a manifest"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, InvalidArgument, "was served as"),
        ({"schemaVersion": 1}, Unimplemented, "schema 1"),
        ({"layers": []}, InvalidArgument, "0 layers, but its config has 1 diff_ids"),
        ({"layers": "no"}, InvalidArgument, r"Expected `array`"),
        ({"layers": [json.loads(SMALL.manifest)["layers"][0]] * 600}, ResourceExhausted, "600 layers"),
        (
            {"layers": [json.loads(SMALL.manifest)["layers"][0] | {"digest": "../../etc/passwd"}]},
            InvalidArgument,
            "digest",
        ),
        ({"layers": [json.loads(SMALL.manifest)["layers"][0] | {"size": -5}]}, InvalidArgument, "size"),
        (
            {
                "layers": [
                    json.loads(SMALL.manifest)["layers"][0]
                    | {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
                ]
            },
            Unimplemented,
            "foreign",
        ),
        (
            {
                "config": json.loads(SMALL.manifest)["config"]
                | {"mediaType": "application/vnd.cncf.helm.config.v1+json"}
            },
            InvalidArgument,
            "not a container image",
        ),
    ],
)
async def test_confused_manifests(
    parts: ImageParts, liar: Liar, change: dict[str, object], kind: type[OrlopError], words: str
) -> None:
    liar.add("x", Image(json.dumps(json.loads(SMALL.manifest) | change).encode(), SMALL.media_type, SMALL.blobs))
    await fails(parts, f"{liar.host}/x:x", kind, words)


async def test_duplicate_keys_and_depth(parts: ImageParts, liar: Liar) -> None:
    liar.add("twice", Image(SMALL.manifest[:-1] + b', "layers": []}', SMALL.media_type, SMALL.blobs))
    await fails(parts, f"{liar.host}/x:twice", InvalidArgument, "'layers' is given twice")
    for depth in (50, 100_000):
        deep = SMALL.manifest[:-1] + b', "annotations": ' + b"[" * depth + b"]" * depth + b"}"
        liar.add("deep", Image(deep, SMALL.media_type, SMALL.blobs))
        await fails(parts, f"{liar.host}/x:deep", ResourceExhausted, "nested deeper")
    liar.add("huge", Image(b" " * (limits.MANIFEST_BYTES + 1), SMALL.media_type, SMALL.blobs))
    await fails(parts, f"{liar.host}/x:huge", ResourceExhausted, "limit")


async def test_index_graphs_end(parts: ImageParts, liar: Liar) -> None:
    liar.add("0", SMALL)
    inner = SMALL
    for depth in range(1, 5):
        inner = liar.add(str(depth), index([(inner, "amd64")]))
    assert (await pull_image(parts, f"{liar.host}/x:2")).repo_tags
    from orlop.services.images.remove import remove_image

    await remove_image(parts, f"{liar.host}/x:2")
    await fails(parts, f"{liar.host}/x:3", ResourceExhausted, "nested deeper")
    many = json.loads(index([(SMALL, "amd64")]).manifest)
    many["manifests"] *= limits.INDEX_DESCRIPTORS + 1
    liar.add("many", Image(json.dumps(many).encode(), "application/vnd.oci.image.index.v1+json", {}))
    await fails(parts, f"{liar.host}/x:many", ResourceExhausted, "entries")


async def test_zip_bombs_stop_at_the_limit(parts: ImageParts, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LAYER_UNCOMPRESSED_BYTES", 1 << 20)
    for compression in ("gzip", "zstd"):
        liar.add("bomb", image([Layer().add("z", bytes(50 << 20)).tar()], {}, compression=compression))
        await fails(parts, f"{liar.host}/x:bomb", ResourceExhausted, "larger than 1048576 bytes")


# transfer


async def test_truncated_bodies_are_continued(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", BIG)
    name = layer_of(BIG)
    tries = 0

    async def cut(request: web.Request) -> Answer:
        nonlocal tries
        tries += 1
        if tries % 2 == 0:
            return None
        whole = send(request, BIG.blobs[name])
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        assert isinstance(whole.body, bytes)
        response.content_length = len(whole.body)
        await response.prepare(request)
        await response.write(whole.body[: len(whole.body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    liar.hook = on_blob(name, cut)
    record = await pull_image(parts, f"{liar.host}/x:x")
    assert record.unpacked_size == 40 << 20 and tries >= 3


async def test_ranges_ignored(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", BIG)
    name = layer_of(BIG)

    async def whole(request: web.Request) -> Answer:
        return web.Response(body=BIG.blobs[name])

    liar.hook = on_blob(name, whole)
    assert (await pull_image(parts, f"{liar.host}/x:x")).unpacked_size == 40 << 20
    # and when a download is continued
    from orlop.services.images.remove import remove_image

    await remove_image(parts, f"{liar.host}/x:x")
    ingest = parts.store.ingest(name, len(BIG.blobs[name]))  # type: ignore[arg-type]
    ingest.write(0, BIG.blobs[name][: 20 << 20])
    ingest.close()
    assert (await pull_image(parts, f"{liar.host}/x:x")).unpacked_size == 40 << 20


async def test_a_bad_start_is_downloaded_again(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", BIG)
    name = layer_of(BIG)
    ingest = parts.store.ingest(name, len(BIG.blobs[name]))  # type: ignore[arg-type]
    ingest.write(0, bytes(10 << 20))
    ingest.close()
    assert (await pull_image(parts, f"{liar.host}/x:x")).unpacked_size == 40 << 20


@pytest.mark.parametrize("content_range", ["bytes 0-9/{size}", "bytes {begin}-{end}/999", "", "bytes */{size}"])
async def test_wrong_content_range(parts: ImageParts, liar: Liar, content_range: str) -> None:
    liar.add("x", BIG)
    name = layer_of(BIG)

    async def wrong(request: web.Request) -> Answer:
        begin, _, end = request.headers.get("Range", "bytes=0-0").removeprefix("bytes=").partition("-")
        text = content_range.format(size=len(BIG.blobs[name]), begin=begin, end=end)
        body = BIG.blobs[name][: int(end) - int(begin) + 1]
        return web.Response(status=206, body=body, headers={"Content-Range": text} if text else {})

    liar.hook = on_blob(name, wrong)
    await fails(parts, f"{liar.host}/x:x", DataLoss, "answers 206 with the range")


async def test_hanging_registry_is_given_up(parts: ImageParts, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_ATTEMPTS", 2)
    liar.add("x", SMALL)

    async def hang(request: web.Request) -> Answer:
        await asyncio.sleep(60)
        return None

    liar.hook = hang
    started = time.monotonic()
    await fails(parts, f"{liar.host}/x:x", Unavailable, "no answer in time")
    liar.hook = on_blob(layer_of(SMALL), hang)
    await fails(parts, f"{liar.host}/x:x", Unavailable, "no answer in time")
    assert time.monotonic() - started < 10


async def test_stalling_body_is_given_up(parts: ImageParts, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_ATTEMPTS", 2)
    liar.add("x", SMALL)
    name = layer_of(SMALL)

    async def stall(request: web.Request) -> Answer:
        response = web.StreamResponse()
        response.content_length = len(SMALL.blobs[name])
        await response.prepare(request)
        await response.write(SMALL.blobs[name][:10])
        await asyncio.sleep(60)
        return response

    liar.hook = on_blob(name, stall)
    await fails(parts, f"{liar.host}/x:x", Unavailable, "connection broke")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_passing_errors_are_tried_again(parts: ImageParts, liar: Liar, status: int) -> None:
    liar.add("x", SMALL)
    seen: dict[str, int] = {}

    async def flaky(request: web.Request) -> Answer:
        key = request.method + request.path
        seen[key] = seen.get(key, 0) + 1
        return web.Response(status=status, headers={"Retry-After": "0"}) if seen[key] == 1 else None

    liar.hook = flaky
    assert (await pull_image(parts, f"{liar.host}/x:x")).repo_tags
    assert all(count >= 2 for count in seen.values())


async def test_lasting_errors_are_told(parts: ImageParts, liar: Liar) -> None:
    async def broken(request: web.Request) -> Answer:
        return web.Response(status=429, headers={"Retry-After": "99999999999"})

    liar.hook = broken
    await fails(parts, f"{liar.host}/x:x", Unavailable, "answers 429")


async def test_head_is_not_needed(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", SMALL)

    async def no_head(request: web.Request) -> Answer:
        return web.Response(status=405) if request.method == "HEAD" else None

    liar.hook = no_head
    assert (await pull_image(parts, f"{liar.host}/x:x")).repo_digests == (f"{liar.host}/x@{SMALL.digest}",)


# credentials

CREDENTIALS = Credentials(username="user", password="secret")
BASIC = "Basic " + base64.b64encode(b"user:secret").decode()


def wants_basic(liar: Liar) -> None:
    async def hook(request: web.Request) -> Answer:
        if request.headers.get("Authorization") == BASIC:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    liar.hook = hook


async def test_basic(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", SMALL)
    wants_basic(liar)
    await fails(parts, f"{liar.host}/x:x", Unauthenticated, "asks for credentials")
    with pytest.raises(Unauthenticated, match="refuses the credentials"):
        await pull_image(parts, f"{liar.host}/x:x", credentials=Credentials(username="user", password="no"))
    assert await pull_image(parts, f"{liar.host}/x:x", credentials=CREDENTIALS)
    assert "secret" not in repr(CREDENTIALS) and "user" not in repr(CREDENTIALS)


@pytest.mark.parametrize("post", [200, 404, 405])
async def test_bearer(parts: ImageParts, liar: Liar, other: Liar, post: int) -> None:
    liar.add("x", SMALL)

    async def registry(request: web.Request) -> Answer:
        if request.headers.get("Authorization") == "Bearer good":
            return None
        challenge = f'Bearer realm="http://{other.host}/token",service="s, with comma",scope="repository:x:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def realm(request: web.Request) -> Answer:
        if request.method == "POST":
            form = await request.post()
            assert form["username"] == "user" and form["password"] == "secret" and form["service"] == "s, with comma"
            return web.json_response({"access_token": "good"}) if post == 200 else web.Response(status=post)
        assert request.query["scope"] == "repository:x:pull"
        assert request.headers.get("Authorization") in (None, BASIC)
        return web.json_response({"token": "good", "expires_in": 300})

    liar.hook, other.hook = registry, realm
    assert await pull_image(parts, f"{liar.host}/x:x", credentials=CREDENTIALS)
    assert [asked[0] for asked in other.asked] == (["POST"] if post == 200 else ["POST", "GET"])
    assert await pull_image(parts, f"{liar.host}/x:x")
    assert other.asked[-1][0] == "GET" and "authorization" not in other.asked[-1][2]


async def test_registry_token_is_used_as_it_is(parts: ImageParts, liar: Liar) -> None:
    liar.add("x", SMALL)
    assert await pull_image(parts, f"{liar.host}/x:x", credentials=Credentials(registry_token="abc"))
    assert {asked[2].get("authorization") for asked in liar.asked} == {"Bearer abc"}


@pytest.mark.parametrize(
    "realm", ["http://169.254.169.254/token", "file:///etc/passwd", "http://[fe80::1]/t", "//x", "", "gopher://x/"]
)
async def test_realms_inside_are_refused(
    parts: ImageParts, liar: Liar, realm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orlop.registry import auth, transport

    async def hook(request: web.Request) -> Answer:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    # The registry stands on loopback, where it may name others of its kind; here it counts as one that is elsewhere.
    inside = auth._is_inside
    monkeypatch.setattr(auth, "_is_inside", lambda host: host != "127.0.0.1" and inside(host))
    monkeypatch.setattr(transport, "is_loopback", lambda host: False)
    liar.hook = hook
    with pytest.raises(PermissionDenied, match="token realm"):
        await pull_image(parts, f"{liar.host}/x:x", credentials=CREDENTIALS)


async def test_redirects_take_no_credentials_along(parts: ImageParts, liar: Liar, other: Liar) -> None:
    liar.add("x", SMALL)
    other.add("x", SMALL)
    wants_basic(liar)
    basic = liar.hook
    assert basic is not None

    async def away(request: web.Request) -> Answer:
        answer = await basic(request)
        if answer is None and "/blobs/" in request.path:
            return web.Response(status=307, headers={"Location": f"http://{other.host}{request.path}"})
        return answer

    liar.hook = away
    assert await pull_image(parts, f"{liar.host}/x:x", credentials=CREDENTIALS)
    assert other.asked and all("authorization" not in headers for _, _, headers in other.asked)


async def test_redirects_end(parts: ImageParts, liar: Liar) -> None:
    async def loop(request: web.Request) -> Answer:
        return web.Response(status=302, headers={"Location": request.path})

    liar.hook = loop
    await fails(parts, f"{liar.host}/x:x", Unavailable, "redirects more than 5 times")
    assert len(liar.asked) <= 2 * (limits.REDIRECTS + 1)

    async def odd(request: web.Request) -> Answer:
        return web.Response(status=302, headers={"Location": "ftp://x/y"})

    liar.hook = odd
    await fails(parts, f"{liar.host}/x:x", PermissionDenied, "not an http or https URL")


# mirrors


def mirror(
    parts: ImageParts,
    registry: str,
    *hosts: Liar,
    server: Liar | None = None,
    capabilities: str = '["pull", "resolve"]',
) -> None:
    assert parts.registry().config_path is not None
    directory = parts.registry().config_path / registry
    directory.mkdir(exist_ok=True)
    text = f'server = "http://{server.host}"\n' if server else ""
    for host in hosts:
        text += f'[host."http://{host.host}"]\n  capabilities = {capabilities}\n'
    (directory / "hosts.toml").write_text(text)


async def test_mirror_is_asked_first_and_read_anew(parts: ImageParts, liar: Liar, other: Liar) -> None:
    liar.add("x", SMALL)
    mirror(parts, "registry.example", liar, server=other)
    record = await pull_image(parts, "registry.example/a/b:x", credentials=CREDENTIALS)
    assert record.repo_tags == ("registry.example/a/b:x",)
    assert not other.asked and all(path.endswith("?ns=registry.example") for _, path, _ in liar.asked)
    assert all("authorization" not in headers for _, _, headers in liar.asked)
    liar.asked.clear()
    mirror(parts, "registry.example", other, server=liar)
    await pull_image(parts, "registry.example/a/b:x")
    assert other.asked and liar.asked


async def test_mirror_that_is_down_or_lies_is_passed_over(parts: ImageParts, liar: Liar, other: Liar) -> None:
    other.add("x", SMALL)
    name = layer_of(SMALL)

    async def wrong(request: web.Request) -> Answer:
        return web.Response(body=b"x" * 10)

    liar.add("x", SMALL)
    liar.hook = on_blob(name, wrong)
    dead = Liar()
    dead.host = "127.0.0.1:1"
    mirror(parts, "docker.io", dead, liar, server=other)
    record = await pull_image(parts, "busybox:x")
    assert record.repo_tags == ("docker.io/library/busybox:x",)


async def test_mirror_without_resolve_maps_no_tags(parts: ImageParts, liar: Liar, other: Liar) -> None:
    liar.add("x", SMALL)
    other.add("x", SMALL)
    mirror(parts, "registry.example", liar, server=other, capabilities='["pull"]')
    await pull_image(parts, "registry.example/a:x")
    assert all("/manifests/x" not in path for _, path, _ in liar.asked) and any(
        "/blobs/" in path for _, path, _ in liar.asked
    )


async def test_broken_hosts_toml_names_file_and_key(parts: ImageParts) -> None:
    assert parts.registry().config_path is not None
    directory = parts.registry().config_path / "registry.example"
    directory.mkdir()
    (directory / "hosts.toml").write_text('[host."http://x"]\n  capabilites = ["pull"]\n')
    await fails(
        parts, "registry.example/a", InvalidArgument, "hosts.toml: host.'http://x': capabilites: is not a known key"
    )


async def test_not_found_everywhere(parts: ImageParts, liar: Liar, other: Liar) -> None:
    mirror(parts, "registry.example", liar, server=other)
    with pytest.raises(NotFound, match=f"not found in registry {other.host}") as caught:
        await pull_image(parts, "registry.example/a:x")
    assert any(liar.host in note for note in caught.value.__notes__)


async def test_errors_do_not_show_secrets(
    parts: ImageParts, liar: Liar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wants_basic(liar)
    with pytest.raises(Unauthenticated) as caught:
        await pull_image(parts, f"{liar.host}/x:x", credentials=Credentials(username="user", password="hunter2"))
    assert "hunter2" not in caught.value.diagnostics() + caplog.text
