"""What the use cases of images work with, and how these parts are put together.

Mutable state lives in the parts, each with one owner; the use cases are functions over them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orlop.base.ids import DiffId, ImageId
from orlop.base.paths import RootPaths
from orlop.base.sharedwork import SharedWork
from orlop.base.supervise import Supervisor
from orlop.base.trash import Trash
from orlop.content.store import ContentStore
from orlop.kernel.unpack import remove_tree
from orlop.layers.apply import LayerPool
from orlop.layers.directories import LayerDirectories
from orlop.metadata.images import ImageRow, ImageStore
from orlop.services.images.progress import PullTracker
from orlop.services.images.record import ImageConfigRecord, ImageRecord
from orlop.specs.image import split_user

if TYPE_CHECKING:
    from orlop.registry.client import RegistryClient
    from orlop.registry.transport import Timeouts


class LazyRegistry:
    """The registry client from the first pull on: its HTTP library is a fifth of what the daemon imports."""

    def __init__(self, config_path: Path | None, *, user_agent: str, timeouts: Timeouts | None) -> None:
        self._config_path, self._user_agent, self._timeouts = config_path, user_agent, timeouts
        self._client: RegistryClient | None = None

    def __call__(self) -> RegistryClient:
        if self._client is None:
            from orlop.registry.client import RegistryClient

            self._client = RegistryClient(self._config_path, user_agent=self._user_agent, timeouts=self._timeouts)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParts:
    """Dependencies of the image use cases; made by ``open_image_parts``, closed by ``close_image_parts``."""

    paths: RootPaths
    trash: Trash
    store: ContentStore
    layers: LayerDirectories
    pool: LayerPool
    db: ImageStore
    registry: LazyRegistry
    supervisor: Supervisor
    pulls: SharedWork[ImageRecord]
    layer_work: SharedWork[None]
    layers_in_use: Callable[[], set[DiffId]]
    """diffIDs that containers use, whether their image still has a row or not."""
    boot_id: str
    trackers: dict[str, PullTracker] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    """Digests and diffIDs that pulls under way count on; they are not removed meanwhile."""

    @contextmanager
    def hold(self, *names: str) -> Iterator[None]:
        """Keep blobs and layers from being removed while the body runs."""
        self.held.update(names)
        try:
            yield
        finally:
            self.held.subtract(names)
            for name in names:
                if self.held[name] <= 0:
                    del self.held[name]


def make_root_directories(paths: RootPaths) -> None:
    """Make the directories below ``--root``; nobody but root may pass (an image may hold set-uid programs)."""
    paths.root.mkdir(mode=0o711, parents=True, exist_ok=True)
    for directory in (
        paths.blobs,
        paths.ingests,
        paths.layers,
        paths.chains,
        paths.staging,
        paths.trash,
        paths.containers,
        paths.empty,
    ):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def open_image_parts(
    paths: RootPaths,
    *,
    registry_config_path: Path | None,
    supervisor: Supervisor,
    layers_in_use: Callable[[], set[DiffId]],
    user_agent: str = "orlop",
    timeouts: Timeouts | None = None,
    trash: Trash | None = None,
) -> ImageParts:
    """Construct the parts over a root directory that this process owns; ``recover_images`` comes next."""
    make_root_directories(paths)
    trash = trash or Trash(paths.trash, remove_tree)
    return ImageParts(
        paths=paths,
        trash=trash,
        store=ContentStore(paths.blobs, paths.ingests),
        layers=LayerDirectories(paths, trash),
        pool=LayerPool(max(2, os.cpu_count() or 1)),
        db=ImageStore(paths.images_db),
        registry=LazyRegistry(registry_config_path, user_agent=user_agent, timeouts=timeouts),
        supervisor=supervisor,
        pulls=SharedWork(supervisor.spawn),
        layer_work=SharedWork(supervisor.spawn),
        layers_in_use=layers_in_use,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    )


async def close_image_parts(parts: ImageParts) -> None:
    """Close files, threads and connections; the supervisor's tasks must have ended."""
    await parts.registry.close()
    parts.pool.close()
    parts.db.close()
    parts.trash.close()


def describe(parts: ImageParts, image_id: ImageId) -> ImageRecord | None:
    """Return the record of an image that has a row."""
    row = parts.db.row(image_id)
    if row is None:
        return None
    tags, digests = parts.db.names(image_id)
    uid, username = split_user(row.user)
    return ImageRecord(
        id=row.id,
        repo_tags=tags,
        repo_digests=digests,
        size=row.size,
        uid=uid,
        username=username,
        config=ImageConfigRecord(
            entrypoint=row.entrypoint,
            cmd=row.cmd,
            env=row.env,
            user=row.user,
            working_dir=row.working_dir,
            labels=row.labels,
            volumes=row.volumes,
            exposed_ports=row.exposed_ports,
            stop_signal=row.stop_signal,
        ),
        diff_ids=row.diff_ids,
        layer_paths=layer_paths(parts, row),
        pinned=row.pinned,
        architecture=row.architecture,
        os=row.os,
        created=row.created,
        pulled_at=row.pulled_at,
        unpacked_size=row.unpacked_size,
    )


def layer_paths(parts: ImageParts, row: ImageRow) -> tuple[Path, ...]:
    """Return what overlayfs mounts for an image, lowest first."""
    stack = parts.layers.stack(row.diff_ids)
    if row.chain:
        stack.append(parts.paths.chains / row.chain.partition(":")[2] / "fs")
    # An image without layers (a scratch image with nothing in it) is an empty directory.
    return tuple(stack) or (parts.paths.empty,)


__all__ = ["ImageParts", "close_image_parts", "describe", "layer_paths", "open_image_parts"]
