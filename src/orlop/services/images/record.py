"""An image as the other use cases see it. Test: tests/kernel/registry/test_pull.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orlop.base.ids import DiffId, ImageId


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfigRecord:
    """What a container of the image runs as, unless its config says otherwise."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    labels: dict[str, str]
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """A present image. ``layer_paths`` are what overlayfs mounts, lowest first; there may be one more than diff_ids."""

    id: ImageId
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size: int
    uid: int | None
    """The config's user when it is a number, else None."""
    username: str
    """The config's user when it is a name, else empty."""
    config: ImageConfigRecord
    diff_ids: tuple[DiffId, ...]
    layer_paths: tuple[Path, ...]
    pinned: bool
    architecture: str
    os: str
    created: str
    pulled_at: int
    unpacked_size: int
