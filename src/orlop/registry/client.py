"""A repository as a puller sees it: resolve a name, read documents, download blobs; mirrors in order, the registry
last.

After ``resolve`` only digests are asked for, so a mirror can fail or lie but cannot give other content. Blobs are
written into a sink at their place as they come: large ones by several exact ranges at once, broken ones from where
they broke. Knows no store and no layer. Test: tests/kernel/registry/.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp

from orlop.base import limits
from orlop.base.errors import DataLoss, NotFound, OrlopError, PermissionDenied, Unauthenticated, Unavailable
from orlop.base.ids import Digest
from orlop.registry.credentials import Credentials
from orlop.registry.document import Document
from orlop.registry.hosts import lookup_hosts
from orlop.registry.transport import TRANSPORT_ERRORS, HostClient, Interrupted, Timeouts, Transport, pause, read_body
from orlop.specs.descriptor import Descriptor
from orlop.specs.digest import matches, parse_digest, sha256_of
from orlop.specs.image import ACCEPT
from orlop.specs.reference import Reference

log = logging.getLogger(__name__)
T = TypeVar("T")
PAGE = 4096
FLUSH_BYTES = 1 << 20


class BlobSink(Protocol):
    """Where a blob's bytes go; content.store.Ingest is one."""

    @property
    def frontier(self) -> int:
        """The end of what is there from the start."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write at an offset; blocks on the disk, called in a worker thread."""


class RegistryClient:
    """The daemon's access to registries; constructed once. ``config_path`` is read anew at each pull."""

    def __init__(self, config_path: Path | None, *, user_agent: str, timeouts: Timeouts | None = None) -> None:
        self.config_path = config_path
        self._transport = Transport(user_agent, timeouts or Timeouts())

    def repository(self, reference: Reference, credentials: Credentials | None) -> Repository:
        """Return access to the repository of a reference; raises InvalidArgument for a broken hosts.toml."""
        hosts = lookup_hosts(self.config_path, reference.registry)
        return Repository(
            reference,
            [
                HostClient(
                    self._transport,
                    host,
                    registry=reference.registry,
                    repository=reference.repository,
                    credentials=credentials,
                )
                for host in hosts
            ],
            self._transport.timeouts,
        )

    async def close(self) -> None:
        await self._transport.close()


class _RangeIgnored(Exception):
    """The server sends the whole blob when asked for a part."""


class Repository:
    """One repository on the hosts that serve it, for one pull."""

    def __init__(self, reference: Reference, hosts: list[HostClient], timeouts: Timeouts) -> None:
        self.reference = reference
        self._hosts = hosts
        self._timeouts = timeouts

    async def resolve(self, known: Callable[[Digest], bool]) -> Digest | Document:
        """Turn the reference into a digest, or into the document when the registry cannot say the digest without it.

        ``known`` says whether the caller has a document already: then its digest is enough. Raises NotFound,
        Unauthenticated, PermissionDenied, Unavailable.
        """
        digest = self.reference.digest
        if digest is not None:
            return digest if known(digest) else await self.manifest(digest)
        return await self._on_hosts("resolve", lambda host: self._resolve_on(host, known))

    async def _resolve_on(self, host: HostClient, known: Callable[[Digest], bool]) -> Digest | Document:
        target = self.reference.target
        subject = f"image {self.reference}"
        try:
            async with host.request("HEAD", host.url("manifests", target), {"Accept": ACCEPT}, subject) as response:
                text = response.headers.get("Docker-Content-Digest", "")
            if text and known(digest := parse_digest(text)):
                return digest
            if text:
                return await self._manifest_on(host, digest, None)
        except (Unavailable, PermissionDenied) as error:
            # Some registries do not answer HEAD (405) or answer it otherwise than GET.
            log.debug("image %s: HEAD: %s; asking by GET", self.reference, error)
        return await self._manifest_on(host, None, target)

    async def manifest(self, digest: Digest) -> Document:
        """Fetch a manifest or index by digest; the bytes are checked. Raises as resolve, and DataLoss."""
        return await self._on_hosts("pull", lambda host: self._manifest_on(host, digest, None))

    async def _manifest_on(self, host: HostClient, digest: Digest | None, tag: str | None) -> Document:
        subject = f"image {self.reference}"
        url = host.url("manifests", digest or tag or "")
        async with host.request("GET", url, {"Accept": ACCEPT}, subject) as response:
            data = await read_body(response, limits.MANIFEST_BYTES, f"{subject}: manifest")
            content_type = response.headers.get("Content-Type", "")
            announced = response.headers.get("Docker-Content-Digest", "")
        if digest is None and announced:
            digest = parse_digest(announced)
        if digest is not None and not matches(data, digest):
            raise DataLoss(f"{subject}: manifest from registry {host.host.authority} does not have the digest {digest}")
        return Document(digest=digest or sha256_of(data), content_type=content_type, data=data)

    async def blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Fetch a small blob into memory; the bytes are checked."""
        return await self._on_hosts("pull", lambda host: self._blob_on(host, descriptor, limit))

    async def _blob_on(self, host: HostClient, descriptor: Descriptor, limit: int) -> bytes:
        subject = f"image {self.reference}: blob {descriptor.digest}"
        async with host.request("GET", host.url("blobs", descriptor.digest), {}, subject) as response:
            data = await read_body(response, limit, subject)
        if len(data) != descriptor.size or not matches(data, descriptor.digest):
            raise DataLoss(f"{subject}: content from registry {host.host.authority} does not have this digest and size")
        return data

    async def download(self, descriptor: Descriptor, sink: BlobSink, advanced: Callable[[int], None]) -> None:
        """Download what a sink does not have yet; ``advanced`` gets the number of bytes of each write.

        Checks lengths and ranges; the digest is checked by whoever reads the sink. Raises as resolve.
        """
        if sink.frontier >= descriptor.size:
            return
        await self._on_hosts("pull", lambda host: _Download(host, self, descriptor, sink, advanced).run())

    async def _on_hosts(self, capability: str, action: Callable[[HostClient], Awaitable[T]]) -> T:
        """Run an action on the first host that serves it; the registry itself comes last and its error counts."""
        failures: list[str] = []
        failure: OrlopError | None = None
        for host in self._hosts:
            if capability not in host.host.capabilities:
                continue
            try:
                return await self._with_attempts(host, action)
            except (NotFound, Unavailable, Unauthenticated, PermissionDenied, DataLoss) as error:
                failure = error
                failures.append(str(error))
                if host is not self._hosts[-1]:
                    log.info("registry %s: %s; asking the next host", host.host.authority, error)
        if failure is None:
            raise Unavailable(f"image {self.reference}: no host of {self.reference.registry} may {capability}")
        for note in failures[:-1]:
            failure.add_note(note)
        raise failure

    async def _with_attempts(self, host: HostClient, action: Callable[[HostClient], Awaitable[T]]) -> T:
        # A mirror that does not answer is left for the next host soon; the last host is asked with patience.
        attempts = limits.REGISTRY_ATTEMPTS if host is self._hosts[-1] else 2
        for attempt in range(attempts):
            try:
                return await action(host)
            except Interrupted as interrupted:
                if attempt + 1 == attempts:
                    raise Unavailable(
                        f"image {self.reference}: registry {host.host.authority}: {interrupted}"
                    ) from interrupted
                await pause(attempt, interrupted, self._timeouts.backoff)
        raise AssertionError("unreachable")

    @property
    def backoff(self) -> float:
        return self._timeouts.backoff


class _Download:
    """One blob from one host, by one or several connections."""

    def __init__(
        self,
        host: HostClient,
        repository: Repository,
        descriptor: Descriptor,
        sink: BlobSink,
        advanced: Callable[[int], None],
    ) -> None:
        self._host = host
        self._repository = repository
        self._descriptor = descriptor
        self._sink = sink
        self._advanced = advanced
        self._subject = f"image {repository.reference}: blob {descriptor.digest}"
        self._url = host.url("blobs", descriptor.digest)

    async def run(self) -> None:
        start, size = self._sink.frontier, self._descriptor.size
        if size - start > 2 * limits.BLOB_RANGE_BYTES:
            try:
                await self._in_ranges(start)
            except _RangeIgnored:
                log.info("%s: registry %s ignores ranges, downloading whole", self._subject, self._host.host.authority)
            else:
                return
        await self._with_progress(self._rest)

    async def _in_ranges(self, start: int) -> None:
        ranges = _ranges(start, self._descriptor.size)

        async def work() -> None:
            for begin, end in ranges:
                await self._one_range(begin, end)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(limits.BLOB_CONNECTIONS):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            # One cause is enough to tell; the others failed for the same reason or were cancelled because of it.
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    async def _one_range(self, begin: int, end: int) -> None:
        at = begin

        def moved(count: int) -> None:
            nonlocal at
            at += count
            self._advanced(count)

        await self._attempt(lambda: self._range(at, end, moved), lambda: at)

    async def _with_progress(self, action: Callable[[], Awaitable[None]]) -> None:
        await self._attempt(action, lambda: self._sink.frontier)

    async def _attempt(self, action: Callable[[], Awaitable[None]], progress: Callable[[], int]) -> None:
        """Repeat an action that is interrupted; only attempts without progress count."""
        failed = 0
        while True:
            before = progress()
            try:
                await action()
            except Interrupted as interrupted:
                failed = 0 if progress() > before else failed + 1
                if failed >= limits.REGISTRY_ATTEMPTS:
                    raise Unavailable(
                        f"{self._subject}: registry {self._host.host.authority}: {interrupted}"
                    ) from interrupted
                await pause(failed, interrupted, self._repository.backoff)
            else:
                return

    async def _rest(self) -> None:
        """Everything from the frontier on, over one connection."""
        start, size = self._sink.frontier, self._descriptor.size
        if start == size:
            return
        if start:
            try:
                await self._range(start, size, self._advanced)
            except _RangeIgnored:
                await self._whole(start)
        else:
            await self._whole(0)

    async def _whole(self, skip: int) -> None:
        size = self._descriptor.size
        async with self._host.request("GET", self._url, {}, self._subject) as response:
            if response.status != 200 or (response.content_length is not None and response.content_length != size):
                raise DataLoss(
                    f"{self._subject}: registry {self._host.host.authority} answers {response.status} with"
                    f" {response.content_length} bytes, not {size}"
                )
            await self._receive(response, 0, size, skip, self._advanced)

    async def _range(self, start: int, end: int, moved: Callable[[int], None]) -> None:
        if start >= end:
            return
        headers = {"Range": f"bytes={start}-{end - 1}"}
        async with self._host.request("GET", self._url, headers, self._subject) as response:
            if response.status == 200:
                raise _RangeIgnored
            # A cache that answers with another range would spoil the file; the digest would only tell at the end.
            given = response.headers.get("Content-Range", "")
            expected = f"bytes {start}-{end - 1}/"
            total = given.removeprefix(expected)
            if (
                response.status != 206
                or not given.startswith(expected)
                or total not in ("*", str(self._descriptor.size))
            ):
                raise DataLoss(
                    f"{self._subject}: registry {self._host.host.authority} answers {response.status} with the range"
                    f" {given!r} to bytes={start}-{end - 1}"
                )
            await self._receive(response, start, end, start, moved)

    async def _receive(
        self, response: aiohttp.ClientResponse, start: int, end: int, skip: int, moved: Callable[[int], None]
    ) -> None:
        """Write a body that stands for ``start`` to ``end`` into the sink, leaving out what lies before ``skip``."""
        at = start
        pending = bytearray()
        written = max(start, skip)

        async def flush(length: int) -> None:
            nonlocal written
            if length <= 0:
                return
            piece = bytes(memoryview(pending)[:length])
            del pending[:length]
            await asyncio.to_thread(self._sink.write, written, piece)
            written += length
            moved(length)

        try:
            async for chunk in response.content.iter_any():
                at += len(chunk)
                if at > end:
                    raise DataLoss(f"{self._subject}: registry {self._host.host.authority} sends more than it has")
                if at > skip:
                    pending += chunk[max(0, len(chunk) - (at - skip)) :]
                if len(pending) >= FLUSH_BYTES:
                    # Whole pages only, so that a file that a crash leaves has holes just where bytes are missing.
                    await flush(len(pending) - (written + len(pending)) % PAGE)
        except TRANSPORT_ERRORS as error:
            await flush(len(pending) - (written + len(pending)) % PAGE)
            raise Interrupted(f"connection broke after {at - start} of {end - start} bytes: {error}") from error
        await flush(len(pending) if at == end else len(pending) - (written + len(pending)) % PAGE)
        if at < end:
            raise Interrupted(f"answer ended after {at - start} of {end - start} bytes")


def _ranges(start: int, size: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < size:
        end = min(size, (at // limits.BLOB_RANGE_BYTES + 1) * limits.BLOB_RANGE_BYTES)
        yield at, end
        at = end
