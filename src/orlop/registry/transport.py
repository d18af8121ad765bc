"""Requests to one registry host: connection pool, TLS, authentication, redirects, waiting and trying again.

An Authorization header goes to the host it was made for and nowhere else: redirects are followed here, one by one,
and another scheme, host or port gets none of our headers. Owns HTTP; knows neither images nor digests. Test:
tests/kernel/registry/test_lying.py.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
import msgspec

from orlop.base import limits
from orlop.base.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    NotFound,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from orlop.registry.auth import (
    CLIENT_ID,
    Challenge,
    TokenResponse,
    basic_header,
    check_target,
    is_inside_address,
    parse_challenges,
)
from orlop.registry.credentials import DOCKER_HOSTS, Credentials
from orlop.registry.hosts import host_of, is_loopback
from orlop.specs.hosts_toml import RegistryHost

log = logging.getLogger(__name__)

RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
REDIRECTS = frozenset((301, 302, 303, 307, 308))
TRANSPORT_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, ConnectionError)
"""What is worth another attempt: the network's fault, not an answer."""
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_SAID_LETTERS = 200
TOKEN_SECONDS = 60.0
"""How long a token lives when the realm does not say (distribution's token specification)."""


class Interrupted(Exception):
    """A request failed in a way that may pass. ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds; tests use shorter ones."""

    connect: float = limits.REGISTRY_CONNECT_SECONDS
    progress: float = limits.REGISTRY_PROGRESS_SECONDS
    backoff: float = 0.25


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True, kw_only=True):
    """distribution-spec's error document."""

    errors: list[_Error]


class Transport:
    """The connection pool and the tokens of the whole daemon; constructed once."""

    def __init__(self, user_agent: str, timeouts: Timeouts) -> None:
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._tokens: dict[tuple[str, str, str], tuple[str, float]] = {}
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        self.timeouts = timeouts

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, limit_per_host=16, ttl_dns_cache=30),
                auto_decompress=False,
                headers={"User-Agent": self._user_agent},
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=1 << 20,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def token(self, key: tuple[str, str, str]) -> str | None:
        token, expires = self._tokens.get(key, ("", 0.0))
        return token if expires > time.monotonic() else None

    def keep_token(self, key: tuple[str, str, str], token: str, seconds: float) -> None:
        now = time.monotonic()
        self._tokens = {k: v for k, v in self._tokens.items() if v[1] > now}
        # A token that ends while a layer is on its way is fetched anew; a few seconds early saves the 401.
        self._tokens[key] = (token, now + max(0.0, seconds - 5.0))

    def drop_token(self, key: tuple[str, str, str]) -> None:
        self._tokens.pop(key, None)

    def tls(self, host: RegistryHost, *, own: bool) -> ssl.SSLContext | bool:
        """Return the TLS settings of a host; True means the system's authorities. Raises FailedPrecondition that names the file.

        Whoever the host sends us to (a token realm, a store of blobs: ``own`` is False) is checked as it is, by the same authorities, but
        is not shown the client's certificate.
        """
        client = host.client if own else ()
        if not host.ca and not client and not host.skip_verify:
            return True
        files = [*host.ca, *(path for pair in client for path in pair if path is not None)]
        path = Path()
        try:
            key: tuple[object, ...] = (host.skip_verify, host.ca, client)
            for path in files:
                key += (path.stat().st_mtime_ns,)
            context = self._contexts.get(key)
            if context is None:
                context = ssl.create_default_context()
                for path in host.ca:
                    context.load_verify_locations(path)
                for path, private in client:
                    context.load_cert_chain(path, private)
                if host.skip_verify:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                self._contexts[key] = context
        except OSError as error:  # ssl.SSLError is one
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or error
            raise FailedPrecondition(f"registry {host.authority}: cannot use its TLS file {path}: {reason}") from error
        return context


class HostClient:
    """Talks to one host for one repository with one set of credentials."""

    def __init__(
        self,
        transport: Transport,
        host: RegistryHost,
        *,
        registry: str,
        repository: str,
        credentials: Credentials | None,
    ) -> None:
        self._transport = transport
        self.host = host
        self._scope = f"repository:{repository}:pull"
        self._credentials = credentials if credentials and credentials.serve(host.authority, registry) else None
        fingerprint = self._credentials.fingerprint if self._credentials else ""
        self._token_key = (host.base, self._scope, fingerprint)
        # A proxy serves many registries; it needs to know which one is meant (distribution-spec, "ns").
        self._query = "" if host.authority in _own_authorities(registry) else f"?ns={registry}"
        self._repository = repository
        self._basic = False
        self._answered = False
        """Whether this host has ever answered: then it takes our TLS."""

    def url(self, kind: str, target: str) -> str:
        """Return ``.../<repository>/<kind>/<target>``; kind is manifests or blobs."""
        return f"{self.host.base}/{self._repository}/{kind}/{target}{self._query}"

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], subject: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its answer (2xx); authenticates and follows redirects.

        Raises Interrupted (may pass), NotFound, Unauthenticated, PermissionDenied, Unavailable (another answer).
        """
        for attempt in ("first", "authenticated"):
            response = await self._follow(method, url, headers, subject)
            try:
                if response.status == 401 and attempt == "first" and await self._authenticate(response, subject):
                    continue
                if 200 <= response.status < 300:
                    yield response
                    return
                await self._refuse(response, subject)
            finally:
                # An answer that was not read to its end leaves a connection that nobody can use.
                response.release() if response.content.at_eof() else response.close()
        raise Internal(f"{subject}: registry {self.host.authority} was asked twice")

    async def _follow(self, method: str, url: str, headers: Mapping[str, str], subject: str) -> aiohttp.ClientResponse:
        origin = urlsplit(self.host.base)
        current = url
        own = True
        for _ in range(limits.REDIRECTS + 1):
            parts = urlsplit(current)
            sent = {"Accept-Encoding": "identity", **headers}
            if own:
                sent |= self.host.headers
                if authorization := self._authorization():
                    sent["Authorization"] = authorization
            response = await self._send(method, current, sent, own)
            if response.status not in REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            target = check_target(location, parts.scheme, self.host.authority, "redirect", base=current)
            await self._refuse_inside(target, "redirect")
            current = target.geturl()
            own = own and _authority(target) == _authority(origin)
        raise Unavailable(f"{subject}: registry {self.host.authority} redirects more than {limits.REDIRECTS} times")

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], own: bool, form: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        timeouts = self._transport.timeouts
        connect = self.host.dial_timeout or timeouts.connect
        try:
            response = await self._transport.session().request(
                method,
                url,
                headers=headers,
                data=form,
                allow_redirects=False,
                proxy=_proxy_for(url),
                ssl=self._transport.tls(self.host, own=own),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=timeouts.progress),
            )
        except aiohttp.InvalidURL as error:
            raise Unavailable(f"registry {self.host.authority}: cannot ask {url[:200]!r}: not a URL") from error
        except TRANSPORT_ERRORS as error:
            target = urlsplit(url)
            if (reason := tls_reason(error, certificate_shown=own and bool(self.host.client))) is not None:
                asked = f"registry {self.host.authority}"
                if target.netloc != self.host.authority:
                    asked += f": {target.netloc}"
                raise Unavailable(f"{asked}: {reason}") from error
            reason = _reason(error)
            if own and not self._answered and target.scheme == "https" and _is_reset(error):
                # Its alert may be lost with the connection: what we write meets a socket that is closed already.
                reason += (
                    "; perhaps it refuses the client certificate"
                    if self.host.client
                    else ("; perhaps it asks for a client certificate")
                )
            raise Interrupted(reason) from error
        except aiohttp.ClientError as error:
            if method == "HEAD":
                # Such as a body where none may be: GET will tell more, another HEAD will not.
                raise Unavailable(f"registry {self.host.authority}: broken answer to HEAD") from error
            raise Interrupted(f"broken answer: {type(error).__name__}") from error
        self._answered = self._answered or own
        return response

    async def _refuse_inside(self, target: SplitResult, what: str) -> None:
        """Refuse a name that the registry chose when it stands for this machine or its link."""
        host = target.hostname or ""
        own = host_of(self.host.authority)
        if host.lower() == own.lower() or is_loopback(own) or is_inside_address(own):
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, target.port or 0, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Interrupted(f"{what} {host}: {error}") from error
        if any(is_inside_address(str(entry[4][0])) for entry in found):
            raise PermissionDenied(
                f"registry {self.host.authority}: {what} {host} points into this machine or its link"
            )

    def _authorization(self) -> str | None:
        if self._credentials and self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        if self._basic and self._credentials:
            return basic_header(self._credentials)
        token = self._transport.token(self._token_key)
        return f"Bearer {token}" if token else None

    async def _authenticate(self, response: aiohttp.ClientResponse, subject: str) -> bool:
        """Do what a 401 asks for; False when there is nothing (more) that could be done."""
        if self._credentials and self._credentials.registry_token:
            return False
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        bearer = next((c for c in challenges if c.scheme == "bearer"), None)
        if bearer is not None:
            self._transport.drop_token(self._token_key)
            answer = await self._fetch_token(bearer, subject)
            seconds = answer.expires_in if answer.expires_in is not None else TOKEN_SECONDS
            self._transport.keep_token(self._token_key, answer.bearer, max(seconds, TOKEN_SECONDS))
            return True
        has_password = self._credentials is not None and bool(self._credentials.username)
        if any(c.scheme == "basic" for c in challenges) and has_password and not self._basic:
            self._basic = True
            return True
        return False

    async def _fetch_token(self, challenge: Challenge, subject: str) -> TokenResponse:
        realm = check_target(challenge.realm, self.host.scheme, self.host.authority, "token realm")
        await self._refuse_inside(realm, "token realm")
        scope = challenge.scope or self._scope
        own = _authority(realm) == (self.host.scheme, self.host.authority)
        credentials = self._credentials
        if credentials and (credentials.identity_token or credentials.username):
            form = {"service": challenge.service, "scope": scope, "client_id": CLIENT_ID}
            if credentials.identity_token:
                form |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            else:
                form |= {"grant_type": "password", "username": credentials.username, "password": credentials.password}
            status, answer = await self._ask_realm("POST", realm.geturl(), {}, own, form)
            if answer is not None:
                return answer
            # Registries without OAuth2 answer in many ways (404, 401, 400, 405); the GET of the first specification
            # decides.
            if status not in (400, 401, 403, 404, 405) or not credentials.username:
                raise _token_refused(self.host.authority, subject, status)
        query = "&".join(
            f"{name}={quote(value, safe='')}"
            for name, value in (("service", challenge.service), ("scope", scope))
            if value
        )
        separator = "&" if realm.query else "?"
        headers = {"Authorization": basic_header(credentials)} if credentials and credentials.username else {}
        status, answer = await self._ask_realm("GET", f"{realm.geturl()}{separator}{query}", headers, own, None)
        if answer is None:
            raise _token_refused(self.host.authority, subject, status)
        return answer

    async def _ask_realm(
        self, method: str, url: str, headers: Mapping[str, str], own: bool, form: Mapping[str, str] | None
    ) -> tuple[int, TokenResponse | None]:
        response = await self._send(method, url, headers, own, form)
        try:
            if response.status in RETRIED:
                raise Interrupted(f"token realm answers {response.status}", _retry_after(response))
            if response.status != 200:
                return response.status, None
            body = await read_body(response, limits.TOKEN_RESPONSE_BYTES, f"registry {self.host.authority}: token")
            try:
                answer = msgspec.json.decode(body, type=TokenResponse)
            except msgspec.MsgspecError as error:
                raise Unauthenticated(f"registry {self.host.authority}: token realm sent no token") from error
            if not answer.bearer or not answer.bearer.isprintable():
                raise Unauthenticated(f"registry {self.host.authority}: token realm sent no token")
            return 200, answer
        finally:
            response.close()

    async def _refuse(self, response: aiohttp.ClientResponse, subject: str) -> None:
        """Raise what an answer that is no success means."""
        status, where = response.status, f"registry {self.host.authority}"
        if status in RETRIED:
            raise Interrupted(f"{where} answers {status}{await _said(response)}", _retry_after(response))
        if status == 404:
            raise NotFound(f"{subject}: not found in {where}")
        if status == 401:
            with_what = "refuses the credentials" if self._credentials else "asks for credentials"
            raise Unauthenticated(f"{subject}: {where} {with_what}")
        if status == 403:
            raise PermissionDenied(f"{subject}: {where} forbids the pull{await _said(response)}")
        raise Unavailable(f"{subject}: {where} answers {status}{await _said(response)}")


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; never one for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    return getproxies_environment().get(parts.scheme)


def _own_authorities(registry: str) -> frozenset[str]:
    return DOCKER_HOSTS if registry in DOCKER_HOSTS else frozenset((registry,))


def _authority(parts: SplitResult) -> tuple[str, str]:
    return parts.scheme, parts.netloc.lower()


def _token_refused(authority: str, subject: str, status: int) -> OrlopError:
    if status in (401, 403):
        return Unauthenticated(f"{subject}: registry {authority}: token realm refuses ({status})")
    return Unavailable(f"{subject}: registry {authority}: token realm answers {status}")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), limits.REGISTRY_RETRY_AFTER_SECONDS) if value.isdigit() and len(value) < 10 else 0.0


def tls_reason(error: BaseException, *, certificate_shown: bool) -> str | None:
    """Say in words why TLS failed where asking again cannot help; None for everything else."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        said = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else str(cause)
        return f"certificate is not trusted: {said}"
    below = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__ or error.__context__
    reason = (below.reason or "") if isinstance(below, ssl.SSLError) else ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return f"speaks no TLS ({reason.lower().replace('_', ' ')})"
    if "ALERT" in reason and any(word in reason for word in _CERTIFICATE_ALERTS):
        what = "refuses the client certificate" if certificate_shown else "asks for a client certificate"
        return f"{what} ({reason.lower().replace('_', ' ')})"
    return None


def _is_reset(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError) or (
        isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE)
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio's own text of a refused connection repeats the address; the number says it shorter.
        below = error.os_error
        number = 0 if isinstance(below, ssl.SSLError) else below.errno or 0
        return f"cannot connect: {os.strerror(number).lower() if number > 0 else below.strerror or below}"
    return f"connection broke: {error or type(error).__name__}"


async def _said(response: aiohttp.ClientResponse) -> str:
    """Return what a refusal says, as ``: words``, from distribution's error document or a line of text; "" when it says nothing."""
    try:
        body = await response.content.read(limits.ERROR_BODY_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return ""
    try:
        errors = msgspec.json.decode(body, type=_Errors).errors
        text = "; ".join(f"{each.code}: {each.message}" for each in errors)
    except msgspec.MsgspecError:
        plain = response.headers.get("Content-Type", "text/plain").startswith("text/plain")
        text = body.decode(errors="replace") if plain else ""
    # It is the registry's text: one line of it, in letters that a terminal can be shown.
    text = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return f": {text[:_SAID_LETTERS]}" if text else ""


async def read_body(response: aiohttp.ClientResponse, limit: int, subject: str) -> bytes:
    """Read a whole small answer; raises ResourceExhausted beyond the limit, Interrupted when it breaks off."""
    if response.content_length is not None and response.content_length > limit:
        raise ResourceExhausted(f"{subject}: {response.content_length} bytes are more than the limit of {limit}")
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise ResourceExhausted(f"{subject}: is larger than the limit of {limit} bytes")
    except TRANSPORT_ERRORS as error:
        raise Interrupted(_reason(error)) from error
    if response.content_length is not None and len(body) != response.content_length:
        raise DataLoss(f"{subject}: {len(body)} bytes came, {response.content_length} were announced")
    return bytes(body)


async def pause(attempt: int, interrupted: Interrupted, backoff: float) -> None:
    """Wait before the next attempt: what the server asked for, else a doubling time with jitter."""
    seconds = interrupted.wait or backoff * 2**attempt * (0.5 + random.random())  # noqa: S311 - jitter, not a secret
    await asyncio.sleep(min(seconds, limits.REGISTRY_RETRY_AFTER_SECONDS))
