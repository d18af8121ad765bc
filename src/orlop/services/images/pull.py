"""PullImage: resolve -> documents -> all layers at once -> chain -> row last, in one transaction.

Callers who want the same image with the same credentials share one pull; it is cancelled when the last of them is. A
failure leaves nothing but downloads that the next attempt continues. Test: tests/kernel/registry/test_pull.py.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.base import faults, limits
from orlop.base.errors import Aborted, DataLoss, InvalidArgument, OrlopError, ResourceExhausted, named
from orlop.base.ids import DiffId, Digest, ImageId
from orlop.content.store import Ingest
from orlop.metadata.images import ImageRow
from orlop.registry.credentials import Credentials
from orlop.registry.document import Document
from orlop.services.images.parts import ImageParts, describe
from orlop.services.images.progress import LayerTrack, PullProgress, PullTracker
from orlop.services.images.record import ImageRecord
from orlop.services.images.recover import sync_images
from orlop.services.images.remove import prune_blobs, prune_layers
from orlop.specs.descriptor import Descriptor, Platform
from orlop.specs.digest import chain_id
from orlop.specs.image import (
    ImageConfig,
    Index,
    Manifest,
    as_arguments,
    check_layers,
    check_platform,
    host_platform,
    parse_config,
    parse_document,
    select_platform,
)
from orlop.specs.reference import Reference, parse_reference

if TYPE_CHECKING:
    from orlop.registry.client import Repository

log = logging.getLogger(__name__)

RESOLVE, DOCUMENTS, DOWNLOAD, APPLIED, LAYERS, CHAIN, ROW = (
    "image.pull.resolve",
    "image.pull.documents",
    "image.pull.download",
    "image.pull.applied",
    "image.pull.layers",
    "image.pull.chain",
    "image.pull.row",
)
faults.declare(RESOLVE, DOCUMENTS, DOWNLOAD, APPLIED, LAYERS, CHAIN, ROW)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Documents:
    """The documents of one image, checked against each other."""

    digest: Digest
    """What the reference means: digest of the index, or of the manifest when there is no index."""
    manifest: Manifest
    config: ImageConfig
    blobs: tuple[Digest, ...]
    size: int


async def pull_image(
    parts: ImageParts,
    reference: str,
    *,
    credentials: Credentials | None = None,
    platform: Platform | None = None,
    progress: Callable[[PullProgress], None] | None = None,
) -> ImageRecord:
    """Make an image present and return it; what is there already is not fetched again.

    Raises InvalidArgument (reference, documents), NotFound, Unauthenticated, PermissionDenied, Unavailable (registry),
    DataLoss (bytes are not what digests say), ResourceExhausted (limits, disk).
    """
    parsed = parse_reference(reference)
    wanted = platform or host_platform()
    key = f"pull {parsed} {wanted} {credentials.fingerprint if credentials else ''}"
    tracker = parts.trackers.get(key)
    if tracker is None or not parts.pulls.is_running(key):
        tracker = parts.trackers[key] = PullTracker(str(parsed))
    if progress is not None:
        tracker.listeners.append(progress)
    work_tracker = tracker
    try:
        with named(f"image {parsed}"):
            return await parts.pulls.run(key, lambda: _pull_or_undo(parts, parsed, wanted, credentials, work_tracker))
    finally:
        if progress is not None:
            tracker.listeners.remove(progress)
        if not parts.pulls.is_running(key) and parts.trackers.get(key) is tracker:
            del parts.trackers[key]


async def _pull_or_undo(
    parts: ImageParts, reference: Reference, wanted: Platform, credentials: Credentials | None, tracker: PullTracker
) -> ImageRecord:
    try:
        return await _pull(parts, reference, wanted, credentials, tracker)
    except BaseException:
        # Layers and documents that were finished before another one failed belong to no image.
        prune_layers(parts)
        prune_blobs(parts)
        raise


async def _pull(
    parts: ImageParts, reference: Reference, wanted: Platform, credentials: Credentials | None, tracker: PullTracker
) -> ImageRecord:
    tracker.tell()
    repository = parts.registry().repository(reference, credentials)
    root = await repository.resolve(parts.store.has)
    faults.reach(RESOLVE)
    digest = root.digest if isinstance(root, Document) else root
    with parts.hold(digest):
        documents = await _fetch_documents(parts, repository, root, wanted)
        diff_ids = documents.config.diff_ids
        with parts.hold(*documents.blobs, *diff_ids, chain := str(chain_id(diff_ids))):
            faults.reach(DOCUMENTS)
            await _ensure_layers(parts, repository, documents, tracker)
            faults.reach(LAYERS)
            tracker.enter("committing")
            completed = ""
            if parts.layers.has_implicit(diff_ids):
                made = await asyncio.to_thread(parts.layers.complete_chain, chain_id(diff_ids), diff_ids)
                completed = chain if made is not None else ""
            faults.reach(CHAIN)
            row = _row(parts, documents, completed)
            await parts.db.put(row, _names(reference, documents.digest), parts.boot_id)
    faults.reach(ROW)
    # The pull does not wait for the disk: until the sync is recorded a power loss removes the image whole.
    parts.supervisor.spawn("image-sync", sync_images(parts, [row.id]))
    tracker.enter("done")
    record = describe(parts, row.id)
    if record is None:
        raise Aborted(f"image {reference}: was removed while it was pulled")
    return record


def _names(reference: Reference, digest: Digest) -> tuple[str, ...]:
    """Return the names that a pull gives: a reference by digest gives no tag, even when it had one."""
    repo_digest = reference.with_digest(digest)
    return (repo_digest,) if reference.digest else (reference.canonical, repo_digest)


# documents


async def _fetch_documents(
    parts: ImageParts, repository: Repository, root: Digest | Document, wanted: Platform
) -> _Documents:
    """Go from the resolved digest through at most INDEX_DEPTH indexes to manifest and config."""
    subject = f"image {repository.reference}"
    content_type = root.content_type if isinstance(root, Document) else ""
    data = root.data if isinstance(root, Document) else parts.store.read(root)
    digest = first = root.digest if isinstance(root, Document) else root
    blobs: list[Digest] = []
    size = 0
    document = parse_document(data, content_type, subject)
    for depth in range(limits.INDEX_DEPTH + 1):
        parts.store.put(digest, data, subject)
        blobs.append(digest)
        size += len(data)
        if isinstance(document, Manifest):
            break
        if depth == limits.INDEX_DEPTH:
            raise ResourceExhausted(f"{subject}: indexes are nested deeper than {limits.INDEX_DEPTH}")
        chosen = select_platform(document, wanted, subject)
        if chosen.digest in blobs:
            raise InvalidArgument(f"{subject}: index {digest} contains itself")
        digest = chosen.digest
        data = await _fetch_child(parts, repository, chosen, subject)
        document = parse_document(data, chosen.media_type, subject)
    if isinstance(document, Index):
        raise ResourceExhausted(f"{subject}: indexes are nested deeper than {limits.INDEX_DEPTH}")
    config_data = await _fetch_config(parts, repository, document.config, subject)
    config = parse_config(config_data, f"{subject}: config {document.config.digest}")
    check_layers(document, config, subject)
    check_platform(config, wanted, subject)
    blobs.append(document.config.digest)
    size += len(config_data) + sum({layer.digest: layer.size for layer in document.layers}.values())
    return _Documents(digest=first, manifest=document, config=config, blobs=tuple(blobs), size=size)


async def _fetch_child(parts: ImageParts, repository: Repository, descriptor: Descriptor, subject: str) -> bytes:
    if parts.store.has(descriptor.digest):
        return parts.store.read(descriptor.digest)
    data = (await repository.manifest(descriptor.digest)).data
    if len(data) != descriptor.size:
        raise DataLoss(f"{subject}: manifest {descriptor.digest} has {len(data)} bytes, not {descriptor.size}")
    return data


async def _fetch_config(parts: ImageParts, repository: Repository, descriptor: Descriptor, subject: str) -> bytes:
    if descriptor.size > limits.IMAGE_CONFIG_BYTES:
        raise ResourceExhausted(
            f"{subject}: config has {descriptor.size} bytes, more than the limit of {limits.IMAGE_CONFIG_BYTES}"
        )
    if parts.store.has(descriptor.digest):
        return parts.store.read(descriptor.digest)
    data = await repository.blob(descriptor, limits.IMAGE_CONFIG_BYTES)
    parts.store.put(descriptor.digest, data, subject)
    return data


# layers


async def _ensure_layers(
    parts: ImageParts, repository: Repository, documents: _Documents, tracker: PullTracker
) -> None:
    """Make every layer present: each once, the largest first, several at a time."""
    layers = {
        (descriptor.digest, diff_id): descriptor
        for descriptor, diff_id in zip(documents.manifest.layers, documents.config.diff_ids, strict=True)
    }
    jobs: list[_LayerJob] = []
    for (digest, diff_id), descriptor in layers.items():
        track = tracker.layers[digest] = LayerTrack(digest, descriptor.size)
        if parts.layers.info(diff_id) is not None:
            track.state = "present"
            continue
        jobs.append(
            _LayerJob(
                parts=parts,
                repository=repository,
                descriptor=descriptor,
                diff_id=diff_id,
                track=track,
                tracker=tracker,
            )
        )
    tracker.enter("layers")
    downloads = asyncio.Semaphore(limits.LAYER_DOWNLOADS)
    try:
        async with asyncio.TaskGroup() as group:
            for job in sorted(jobs, key=lambda job: job.descriptor.size, reverse=True):
                group.create_task(_ensure_layer(job, downloads))
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayerJob:
    """One layer to be fetched, and where its figures go."""

    parts: ImageParts
    repository: Repository
    descriptor: Descriptor
    diff_id: DiffId
    track: LayerTrack
    tracker: PullTracker


async def _ensure_layer(job: _LayerJob, downloads: asyncio.Semaphore) -> None:
    async with downloads:
        # Another image's pull may be at the same layer; both then wait for one download.
        try:
            await job.parts.layer_work.run(f"layer {job.descriptor.digest} {job.diff_id}", lambda: _fetch_layer(job))
        except OrlopError as error:
            # Each of them names its own image.
            raise copy.copy(error) from error
    job.track.downloaded = job.track.unpacked = job.descriptor.size
    job.track.state = "done"
    job.tracker.tell()


async def _fetch_layer(job: _LayerJob) -> None:
    if job.parts.layers.info(job.diff_id) is not None:
        return
    try:
        resumed = await _ingest_layer(job)
    except _ResumeFailed as failed:
        # What an earlier run left may be what is wrong; the whole is fetched anew, once.
        log.warning("layer %s: %s; downloading it again", job.descriptor.digest, failed.cause)
        resumed = await _ingest_layer(job)
    if resumed:
        log.info("layer %s: download was continued", job.descriptor.digest)


class _ResumeFailed(Exception):
    """A continued download had wrong bytes; they have been removed."""

    def __init__(self, cause: DataLoss) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def _ingest_layer(job: _LayerJob) -> bool:
    """Download and apply a layer; returns whether a broken download was continued. What came is kept unless it was
    wrong.
    """
    ingest = job.parts.store.ingest(job.descriptor.digest, job.descriptor.size)
    resumed = ingest.frontier > 0
    try:
        await _download_and_apply(job, ingest)
    except DataLoss as error:
        ingest.discard()
        if resumed:
            raise _ResumeFailed(error) from error
        raise
    except ResourceExhausted:
        # No space, or beyond a limit: what came is in the way of everybody and brings the next attempt nothing.
        ingest.discard()
        raise
    except BaseException:
        ingest.close()
        raise
    ingest.discard()
    return resumed


async def _download_and_apply(job: _LayerJob, ingest: Ingest) -> None:
    parts, track = job.parts, job.track
    staged = parts.layers.stage()
    track.downloaded, track.state = ingest.frontier, "downloading"

    def arrived(count: int) -> None:
        track.downloaded += count
        job.tracker.moved()

    def unpacked(offset: int) -> None:
        track.unpacked = offset

    async def download() -> None:
        try:
            await job.repository.download(job.descriptor, ingest, arrived)
            faults.reach(DOWNLOAD)
        except Exception as error:
            # The reader must not wait for bytes that do not come; it raises this same error.
            ingest.fail(error)
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(download())
            applying = group.create_task(parts.pool.apply(ingest, staged / "fs", job.diff_id, unpacked))
        applied = applying.result()
        faults.reach(APPLIED)
        parts.layers.publish(staged, applied)
    except BaseExceptionGroup as errors:
        parts.layers.abandon(staged)
        raise _first(errors) from None
    except BaseException:
        parts.layers.abandon(staged)
        raise


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one cause out of a group: the others failed for the same reason, or were cancelled because of it."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


# row


def _row(parts: ImageParts, documents: _Documents, chain: str) -> ImageRow:
    config = documents.config
    process = config.process
    image_id = ImageId(documents.manifest.config.digest)
    before = parts.db.row(image_id)
    infos = [parts.layers.info(diff_id) for diff_id in dict.fromkeys(config.diff_ids)]
    return ImageRow(
        id=image_id,
        diff_ids=config.diff_ids,
        chain=chain,
        size=documents.size,
        unpacked_size=sum(info.size for info in infos if info is not None),
        blobs=tuple(dict.fromkeys((*(before.blobs if before else ()), *documents.blobs))),
        architecture=config.architecture,
        os=config.os,
        created=config.created or "",
        user=process.user,
        entrypoint=as_arguments(process.entrypoint),
        cmd=as_arguments(process.cmd),
        env=process.env or (),
        working_dir=process.working_dir,
        labels=process.labels or {},
        volumes=tuple(process.volumes or ()),
        exposed_ports=tuple(process.exposed_ports or ()),
        stop_signal=process.stop_signal,
        pinned=before.pinned if before else False,
        pulled_at=time.time_ns(),
    )
