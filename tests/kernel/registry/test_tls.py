"""HTTPS: every TLS option of hosts.toml against Debian's docker-registry, with basic and with bearer-token authentication."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from orlop.base.errors import FailedPrecondition, NotFound, OrlopError, Unauthenticated, Unavailable
from orlop.registry.credentials import Credentials
from orlop.services.images.list import list_images
from orlop.services.images.parts import ImageParts
from orlop.services.images.pull import pull_image
from orlop.services.images.remove import remove_image
from tests.images.build import Layer, image, push
from tests.images.certificates import Authority
from tests.images.registry import Registry
from tests.kernel.registry.test_lying import Liar, serve

pytestmark = pytest.mark.kernel

IMAGE = image([Layer().add("hello", b"over TLS").tar()], {})
USER = Credentials(username="orlop", password="orlop-secret")
# bcrypt of USER's password, of the lowest cost.
HTPASSWD = "orlop:$2b$04$orlopTestSaltForBcrype02cbNwyjtflb0o73QGj/zHi0jNBMESq\n"
REPOSITORY = "secure/image"
NAME = f"{REPOSITORY}:1"
AUDIENCE, ISSUER = "registry.test", "token.test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server", "127.0.0.1")
    made.issue("elsewhere", "192.0.2.1")
    made.issue("client")
    return made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody knows; its certificates are as good as the other's otherwise."""
    made = Authority(tmp_path_factory.mktemp("stranger"))
    made.issue("client")
    return made


@pytest.fixture(scope="module")
def content(registry: Registry) -> Path:
    """A store with the image in it, filled over plain HTTP; the registries of this module show it over HTTPS."""
    push(registry.host, REPOSITORY, "1", IMAGE)
    return registry.data


def files_of(authority: Authority, name: str) -> tuple[Path, Path]:
    return authority.directory / f"{name}.crt", authority.directory / f"{name}.key"


@contextlib.contextmanager
def running(
    directory: Path, content: Path, authority: Authority, name: str = "server", **options: object
) -> Iterator[str]:
    with Registry(directory, data=content, certificate=files_of(authority, name), **options) as made:
        yield made.host


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, content: Path, authority: Authority) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("tls"), content, authority) as host:
        yield host


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, content: Path, authority: Authority) -> Iterator[str]:
    """A registry that lets in only who shows a certificate of the authority."""
    with running(tmp_path_factory.mktemp("mtls"), content, authority, client_authority=authority.path) as host:
        yield host


def hosts(parts: ImageParts, registry: str, text: str) -> None:
    assert parts.registry().config_path is not None
    directory = parts.registry().config_path / registry
    directory.mkdir(exist_ok=True)
    (directory / "hosts.toml").write_text(text)


async def pulls(parts: ImageParts, registry: str, credentials: Credentials | None = None) -> None:
    record = await pull_image(parts, f"{registry}/{NAME}", credentials=credentials)
    assert f"{registry}/{REPOSITORY}@{IMAGE.digest}" in record.repo_digests
    await remove_image(parts, record.id)


async def fails(
    parts: ImageParts, registry: str, kind: type[OrlopError], words: str, credentials: Credentials | None = None
) -> None:
    with pytest.raises(kind, match=words) as caught:
        await pull_image(parts, f"{registry}/{NAME}", credentials=credentials)
    assert registry in str(caught.value)
    assert "orlop-secret" not in caught.value.diagnostics()
    assert await list_images(parts) == [] and os.listdir(parts.paths.layers) == []


# ca, skip_verify


async def test_ca_of_the_server(parts: ImageParts, secure: str, authority: Authority) -> None:
    hosts(parts, secure, f'server = "https://{secure}"\nca = "{authority.path}"\n')
    await pulls(parts, secure)


async def test_ca_of_a_mirror_beside_the_file(parts: ImageParts, secure: str, authority: Authority) -> None:
    """A relative path is relative to hosts.toml; the name that was asked for is kept."""
    hosts(parts, "example.invalid", f'server = "http://127.0.0.1:1"\n[host."https://{secure}"]\nca = ["own.crt"]\n')
    (parts.registry().config_path / "example.invalid" / "own.crt").write_bytes(authority.path.read_bytes())
    await pulls(parts, "example.invalid")


async def test_without_the_ca(parts: ImageParts, secure: str, stranger: Authority) -> None:
    hosts(parts, secure, f'server = "https://{secure}"\n')
    began = time.monotonic()
    await fails(parts, secure, Unavailable, "certificate is not trusted: .*unable to get local issuer certificate")
    hosts(parts, secure, f'server = "https://{secure}"\nca = "{stranger.path}"\n')
    await fails(parts, secure, Unavailable, "certificate is not trusted: ")
    assert time.monotonic() - began < 10, "asking again cannot help"


async def test_a_file_that_is_replaced_counts_at_the_next_pull(
    parts: ImageParts, secure: str, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(stranger.path.read_bytes())
    hosts(parts, secure, f'server = "https://{secure}"\nca = "{path}"\n')
    await fails(parts, secure, Unavailable, "not trusted")
    path.write_bytes(authority.path.read_bytes())
    await pulls(parts, secure)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("missing.crt", None, "missing.crt: No such file"), ("garbage.crt", b"no certificate", "garbage.crt: ")],
)
async def test_a_ca_that_cannot_be_used(
    parts: ImageParts, secure: str, name: str, data: bytes | None, words: str
) -> None:
    hosts(parts, secure, f'server = "https://{secure}"\nca = "{name}"\n')
    if data is not None:
        (parts.registry().config_path / secure / name).write_bytes(data)
    await fails(parts, secure, FailedPrecondition, words)


async def test_skip_verify(parts: ImageParts, secure: str) -> None:
    hosts(parts, secure, f'server = "https://{secure}"\nskip_verify = true\n')
    await pulls(parts, secure)


async def test_a_certificate_for_another_name(
    parts: ImageParts, content: Path, authority: Authority, tmp_path: Path
) -> None:
    with running(tmp_path / "elsewhere", content, authority, "elsewhere") as host:
        hosts(parts, host, f'server = "https://{host}"\nca = "{authority.path}"\n')
        await fails(parts, host, Unavailable, "certificate is not trusted: .*127.0.0.1")
        hosts(parts, host, f'server = "https://{host}"\nca = "{authority.path}"\nskip_verify = true\n')
        await pulls(parts, host)


async def test_a_server_that_speaks_the_other_protocol(
    parts: ImageParts, registry: Registry, content: Path, secure: str
) -> None:
    hosts(parts, registry.host, f'server = "https://{registry.host}"\n')
    await fails(parts, registry.host, Unavailable, "speaks no TLS")
    await fails(parts, secure, Unavailable, "answers 400: Client sent an HTTP request to an HTTPS server")


async def test_a_directory_of_certificates_without_hosts_toml(
    parts: ImageParts, mutual: str, authority: Authority
) -> None:
    """Docker's way: NAME.crt is an authority, NAME.cert and NAME.key are shown; certificates mean HTTPS, also on loopback."""
    certificate, key = files_of(authority, "client")
    directory = parts.registry().config_path / mutual
    directory.mkdir()
    (directory / "ca.crt").write_bytes(authority.path.read_bytes())
    (directory / "client.cert").write_bytes(certificate.read_bytes())
    (directory / "client.key").write_bytes(key.read_bytes())
    await pulls(parts, mutual)


# client


@pytest.mark.parametrize("form", ["pair", "one file"])
async def test_client_certificate(
    parts: ImageParts, mutual: str, authority: Authority, tmp_path: Path, form: str
) -> None:
    certificate, key = files_of(authority, "client")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    client = f'[["{certificate}", "{key}"]]' if form == "pair" else f'"{both}"'
    hosts(parts, mutual, f'server = "https://{mutual}"\nca = "{authority.path}"\nclient = {client}\n')
    await pulls(parts, mutual)


async def test_without_the_client_certificate(parts: ImageParts, mutual: str, authority: Authority) -> None:
    hosts(parts, mutual, f'server = "https://{mutual}"\nca = "{authority.path}"\n')
    await fails(parts, mutual, Unavailable, "(asks for|perhaps it asks for) a client certificate")


async def test_a_client_certificate_of_a_stranger(
    parts: ImageParts, mutual: str, authority: Authority, stranger: Authority
) -> None:
    certificate, key = files_of(stranger, "client")
    settings = f'ca = "{authority.path}"\nclient = [["{certificate}", "{key}"]]\n'
    hosts(parts, mutual, f'server = "https://{mutual}"\n{settings}')
    await fails(parts, mutual, Unavailable, "(refuses|perhaps it refuses) the client certificate")


async def test_a_key_of_another_certificate(
    parts: ImageParts, mutual: str, authority: Authority, stranger: Authority
) -> None:
    certificate, _ = files_of(authority, "client")
    _, key = files_of(stranger, "client")
    settings = f'ca = "{authority.path}"\nclient = [["{certificate}", "{key}"]]\n'
    hosts(parts, mutual, f'server = "https://{mutual}"\n{settings}')
    await fails(parts, mutual, FailedPrecondition, f"{certificate}: .*(?i:mismatch)")


# capabilities, header, override_path


async def test_override_path(parts: ImageParts, content: Path, authority: Authority, tmp_path: Path) -> None:
    with running(tmp_path / "prefix", content, authority, prefix="/deep/") as host:
        hosts(parts, host, f'server = "https://{host}/deep"\nca = "{authority.path}"\n')
        await pulls(parts, host)
    with running(tmp_path / "prefix2", content, authority, prefix="/deep/") as host:
        hosts(parts, host, f'server = "https://{host}/deep/v2"\noverride_path = true\nca = "{authority.path}"\n')
        await pulls(parts, host)
    with running(tmp_path / "prefix3", content, authority, prefix="/deep/") as host:
        hosts(parts, host, f'server = "https://{host}/deep"\noverride_path = true\nca = "{authority.path}"\n')
        with pytest.raises(NotFound, match=f"not found in registry {host}"):
            await pull_image(parts, f"{host}/other:1")


def server_context(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files_of(authority, "server"))
    return context


@pytest.fixture
async def liars(authority: Authority) -> AsyncIterator[tuple[Liar, Liar]]:
    """Two registries of this process, over TLS, which keep what they were asked."""
    made = [Liar(), Liar()]
    runners = [await serve(each, server_context(authority)) for each in made]
    for each in made:
        each.add("1", IMAGE)
    yield made[0], made[1]
    for runner in runners:
        await runner.cleanup()


async def test_capabilities_and_headers(parts: ImageParts, liars: tuple[Liar, Liar], authority: Authority) -> None:
    """A host that may not resolve is asked for content only; each host gets its own headers and no other's."""
    pulling, resolving = liars
    hosts(
        parts,
        "example.invalid",
        f"""
server = "https://{resolving.host}"
ca = "{authority.path}"
[header]
x-of = "server"
[host."https://{pulling.host}"]
capabilities = ["pull"]
ca = "{authority.path}"
[host."https://{pulling.host}".header]
x-of = ["mirror", "twice"]
""",
    )
    await pulls(parts, "example.invalid")
    assert all("/manifests/1" not in path for _, path, _ in pulling.asked)
    assert any("/blobs/" in path for _, path, _ in pulling.asked)
    assert any("/manifests/1" in path for _, path, _ in resolving.asked)
    assert not any("/blobs/" in path for _, path, _ in resolving.asked)
    assert {headers["x-of"] for _, _, headers in pulling.asked} == {"mirror, twice"}
    assert {headers["x-of"] for _, _, headers in resolving.asked} == {"server"}
    # A mirror serves many registries and is told which one is meant.
    assert all("ns=example.invalid" in path for _, path, _ in pulling.asked)


async def test_where_a_registry_sends_us_is_checked_by_the_same_authorities(
    parts: ImageParts, liars: tuple[Liar, Liar], authority: Authority
) -> None:
    """A store of blobs behind a registry of the same house; no header and no credentials go there."""
    registry, store = liars

    async def elsewhere(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path:
            return None
        raise web.HTTPTemporaryRedirect(f"https://{store.host}{request.path_qs}")

    registry.hook = elsewhere
    certificate, key = files_of(authority, "client")
    settings = f'ca = "{authority.path}"\nclient = [["{certificate}", "{key}"]]\n[header]\nx-of = "registry"\n'
    hosts(parts, registry.host, f'server = "https://{registry.host}"\n{settings}')
    await pulls(parts, registry.host, USER)
    assert store.asked and not any({"x-of", "authorization"} & set(headers) for _, _, headers in store.asked)


# credentials


async def test_basic(parts: ImageParts, content: Path, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "orlop", "path": str(tmp_path / "htpasswd")}}
    with running(tmp_path / "basic", content, authority, auth=auth) as host:
        hosts(parts, host, f'server = "https://{host}"\nca = "{authority.path}"\n')
        await fails(parts, host, Unauthenticated, "asks for credentials")
        wrong = Credentials(username="orlop", password="wrong")
        await fails(parts, host, Unauthenticated, "refuses the credentials", wrong)
        # They are for another registry, so this one is not shown them.
        await fails(
            parts,
            host,
            Unauthenticated,
            "asks for credentials",
            Credentials(username="orlop", password="orlop-secret", server_address="https://other.invalid"),
        )
        await pulls(parts, host, USER)


class TokenServer:
    """Gives signed tokens to USER, as distribution's token specification has it; ``asked`` says how."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        certificate, key = files_of(authority, "server")
        self.key = serialization.load_pem_private_key(key.read_bytes(), None)
        lines = certificate.read_text().splitlines()
        self.x5c = "".join(line for line in lines if "-" not in line)
        self.asked: list[str] = []
        self.host = ""

    async def answer(self, request: web.Request) -> web.Response:
        form = await request.post() if request.method == "POST" else request.query
        self.asked.append(f"{request.method} {form.get('grant_type', '')}".strip())
        header = request.headers.get("Authorization", "")
        given = base64.b64decode(header.removeprefix("Basic ")).decode() if header else ""
        if request.method == "POST":
            return web.Response(status=404)  # as registries without OAuth2
        if given != f"{USER.username}:{USER.password}":
            return web.Response(status=401)
        scopes = [scope.split(":") for scope in form.getall("scope")]
        access = [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in scopes]
        return web.json_response({"token": self.token(access), "expires_in": 300})

    def token(self, access: list[dict[str, object]]) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": USER.username, "aud": AUDIENCE, "jti": os.urandom(8).hex(), "access": access}
        claims |= {"iat": now, "nbf": now - 10, "exp": now + 300}
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self.x5c]}
        signed = b".".join(encoded(json.dumps(each).encode()) for each in (head, claims))
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.fixture
async def token_server(authority: Authority) -> AsyncIterator[TokenServer]:
    made = TokenServer(authority)
    application = web.Application()
    application.router.add_route("*", "/token", made.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(authority)).start()
    made.host = f"127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_bearer_tokens(
    parts: ImageParts, content: Path, authority: Authority, token_server: TokenServer, tmp_path: Path
) -> None:
    realm = f"https://{token_server.host}/token"
    token = {"realm": realm, "service": AUDIENCE, "issuer": ISSUER, "rootcertbundle": str(authority.path)}
    with running(tmp_path / "bearer", content, authority, auth={"token": token}) as host:
        hosts(parts, host, f'server = "https://{host}"\nca = "{authority.path}"\n')
        await fails(parts, host, Unauthenticated, r"token realm refuses \(401\)")
        wrong = Credentials(username="orlop", password="wrong")
        await fails(parts, host, Unauthenticated, r"token realm refuses \(401\)", wrong)
        token_server.asked.clear()
        await pulls(parts, host, USER)
        assert token_server.asked == ["POST password", "GET"], "one token serves the whole pull"
        given = Credentials(registry_token=token_server.token([]))
        await pulls(parts, host, USER)
        assert len(token_server.asked) == 2, "and the next one"
        with pytest.raises(Unauthenticated, match="refuses the credentials"):
            await pull_image(parts, f"{host}/secure/other:1", credentials=given)


async def test_a_realm_whose_certificate_is_not_trusted(
    parts: ImageParts, content: Path, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    stranger.issue("server", "127.0.0.1")
    strange = TokenServer(stranger)
    runner = web.AppRunner(web.Application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(stranger)).start()
    strange.host = f"127.0.0.1:{runner.addresses[0][1]}"
    token = {"realm": f"https://{strange.host}/token", "service": AUDIENCE, "issuer": ISSUER}
    token["rootcertbundle"] = str(authority.path)
    try:
        with running(tmp_path / "bearer", content, authority, auth={"token": token}) as host:
            hosts(parts, host, f'server = "https://{host}"\nca = "{authority.path}"\n')
            await fails(parts, host, Unavailable, f"{strange.host}: certificate is not trusted", USER)
        assert strange.asked == []
    finally:
        await runner.cleanup()
