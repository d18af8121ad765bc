"""Where applied layers live: ``layers/<diffID hex>/{fs,layer.json}``, and what a stack of them lacks.

A layer is applied alone, so one directory serves every image that has it, wherever in the stack. What the order would
have given is added per chain: a directory that a layer's tar left out ("implicit") takes mode, owner, times and
xattrs from the layers below it. When a chain has such directories, ``chains/<chainID hex>/fs`` holds just these, with
the right attributes, as the topmost layer.

    staging/<token>/fs   ->   rename   ->   layers/<hex>    (published whole or not at all)

Owns these directories; never fetches, never mounts. Test: tests/kernel/layers/test_directories.py.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from orlop.base.errors import DataLoss, Internal
from orlop.base.ids import ChainId, DiffId
from orlop.base.paths import RootPaths
from orlop.base.trash import Trash
from orlop.kernel.openat2 import open_in_root
from orlop.layers.apply import AppliedLayer
from orlop.specs.digest import hex_of

OPAQUE_XATTR = "trusted.overlay.opaque"


class LayerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """layer.json: what was found out while the layer was applied."""

    diff_id: DiffId
    size: int
    entries: int
    implicit: tuple[str, ...] = ()


class LayerDirectories:
    """The layers on disk; the directory is the truth, what is read from layer.json is kept in memory."""

    def __init__(self, paths: RootPaths, trash: Trash) -> None:
        self._paths = paths
        self._trash = trash
        self._known: dict[DiffId, LayerInfo] = {}

    def home(self, diff_id: DiffId) -> Path:
        return self._paths.layers / hex_of(diff_id)

    def fs(self, diff_id: DiffId) -> Path:
        """The directory to mount."""
        return self.home(diff_id) / "fs"

    def info(self, diff_id: DiffId) -> LayerInfo | None:
        """Return what is known of a published layer, None when there is none; raises DataLoss for a torn one."""
        known = self._known.get(diff_id)
        if known is None:
            path = self.home(diff_id) / "layer.json"
            try:
                known = msgspec.json.decode(path.read_bytes(), type=LayerInfo)
            except FileNotFoundError:
                return None
            except msgspec.MsgspecError as error:
                raise DataLoss(f"layer {diff_id}: {path}: {error}") from error
            self._known[diff_id] = known
        return known

    def stage(self) -> Path:
        """Make a directory to apply a layer into; it ends with ``publish`` or ``abandon``."""
        staged = self._paths.staging / secrets.token_hex(8)
        staged.mkdir(mode=0o700)
        (staged / "fs").mkdir(mode=0o755)
        # The umask does not count: this is the root directory that a container of one layer shows.
        (staged / "fs").chmod(0o755)
        return staged

    def publish(self, staged: Path, applied: AppliedLayer) -> LayerInfo:
        """Make an applied layer visible under its diffID; one that is there already stays (it has the same content)."""
        info = LayerInfo(diff_id=applied.diff_id, size=applied.size, entries=applied.entries, implicit=applied.implicit)
        (staged / "layer.json").write_bytes(msgspec.json.encode(info))
        home = self.home(applied.diff_id)
        try:
            staged.rename(home)
        except OSError as error:
            if not home.is_dir():
                raise Internal(f"layer {applied.diff_id}: cannot publish {home}: {error.strerror}") from error
            self.abandon(staged)
        self._known[applied.diff_id] = info
        return info

    def abandon(self, staged: Path) -> None:
        """Remove what was staged."""
        self._trash.discard(staged)

    def remove(self, diff_id: DiffId) -> None:
        """Remove a layer that nobody uses; it is out of sight at once."""
        self._known.pop(diff_id, None)
        self._trash.discard(self.home(diff_id))

    def remove_chain(self, chain: ChainId) -> None:
        self._trash.discard(self._paths.chains / hex_of(chain))

    def all_layers(self) -> list[DiffId]:
        return [DiffId(f"sha256:{entry.name}") for entry in os.scandir(self._paths.layers)]

    def all_chains(self) -> list[tuple[ChainId, tuple[DiffId, ...]]]:
        """List the completing directories with the layers of their chains."""
        return [
            (
                ChainId(f"sha256:{entry.name}"),
                msgspec.json.decode(
                    (self._paths.chains / entry.name / "chain.json").read_bytes(), type=tuple[DiffId, ...]
                ),
            )
            for entry in os.scandir(self._paths.chains)
        ]

    def stack(self, diff_ids: Sequence[DiffId]) -> list[Path]:
        """Return the directories of a chain, lowest first, each once.

        A layer that is in the chain twice (empty layers are) counts where it is highest: it hides there all that it
        hides below, and overlayfs refuses one directory in two places.
        """
        highest = dict.fromkeys(reversed(diff_ids))
        return [self.fs(diff_id) for diff_id in reversed(highest)]

    def has_implicit(self, diff_ids: Iterable[DiffId]) -> bool:
        return any((info := self.info(diff_id)) is not None and info.implicit for diff_id in diff_ids)

    def complete_chain(self, chain: ChainId, diff_ids: Sequence[DiffId]) -> Path | None:
        """Make the topmost layer that gives implicit directories their attributes; None when the chain needs none.

        Blocks on the disk. Idempotent: one that is there already is returned.
        """
        home = self._paths.chains / hex_of(chain)
        if home.is_dir():
            return home / "fs"
        layers = [(self.fs(d), set(info.implicit)) for d in diff_ids if (info := self.info(d)) is not None]
        inherited = _inherited(layers)
        if not inherited:
            return None
        staged = self.stage()
        _copy_directories(staged / "fs", inherited)
        (staged / "chain.json").write_bytes(msgspec.json.encode(tuple(diff_ids)))
        try:
            staged.rename(home)
        except OSError as error:
            if not home.is_dir():
                raise Internal(f"chain {chain}: cannot publish {home}: {error.strerror}") from error
            self.abandon(staged)
        return home / "fs"


def _inherited(layers: Sequence[tuple[Path, set[str]]]) -> dict[str, Path]:
    """Return implicit directory -> layer whose directory of that name gives the attributes, with all parents.

    A directory is left out when some layer above describes it, or none below has it (then 0755 root:root is right).
    """
    wanted = sorted({name for _, implicit in layers for name in implicit})
    result: dict[str, Path] = {}
    for name in wanted:
        donor = _donor(layers, name)
        if donor is None:
            continue
        top = next((fs for fs, _ in reversed(layers) if _kind(fs, name) == "directory"), None)
        if top is None or donor == top or _attributes(donor, name) == _attributes(top, name):
            continue
        result[name] = donor
        # Parents are shown by the new top layer too, so each needs its own donor.
        parts = name.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in result and (parent_donor := _donor(layers, parent)) is not None:
                result[parent] = parent_donor
    return result


def _attributes(fs: Path, name: str) -> tuple[int, int, int, tuple[tuple[str, bytes], ...]]:
    """Return what a directory must inherit: mode, owner, xattrs. Its times are those of its last change in any case."""
    fd = _open_directory(fs, name)
    try:
        st = os.fstat(fd)
        xattrs = tuple((x, os.getxattr(fd, x)) for x in sorted(os.listxattr(fd)) if not x.startswith("trusted."))
        return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, xattrs
    finally:
        os.close(fd)


def _donor(layers: Sequence[tuple[Path, set[str]]], name: str) -> Path | None:
    """Return the highest visible layer that describes a directory, None when it is hidden or nobody does."""
    seen = False
    for fs, implicit in reversed(layers):
        kind = _kind(fs, name)
        if kind in ("directory", "opaque"):
            seen = True
            if name not in implicit:
                return fs
        elif kind == "hidden" and not seen:
            return None
        if kind in ("opaque", "hidden", "closed"):
            return None
    return None


def _kind(fs: Path, name: str) -> str:
    """Tell what a layer does with a directory: directory, opaque (and nothing below shows), hidden (removed or
    replaced),
    closed (absent, and a parent is opaque), absent."""
    closed = False
    at = fs
    parts = name.split("/")
    for index, part in enumerate(parts):
        at = at / part
        try:
            st = at.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return "closed" if closed else "absent"
        if not stat.S_ISDIR(st.st_mode):
            return "hidden"
        opaque = OPAQUE_XATTR in os.listxattr(at, follow_symlinks=False)
        closed = closed or opaque
        if index == len(parts) - 1:
            return "opaque" if closed else "directory"
    return "absent"


def _copy_directories(target: Path, donors: dict[str, Path]) -> None:
    for name in sorted(donors):
        (target / name).mkdir(mode=0o755, exist_ok=True)
    # Deepest first: making a child changes its parent's times.
    for name in sorted(donors, reverse=True):
        donor_fd = _open_directory(donors[name], name)
        copy_fd = _open_directory(target, name)
        try:
            st = os.fstat(donor_fd)
            os.fchown(copy_fd, st.st_uid, st.st_gid)
            for xattr in os.listxattr(donor_fd):
                if not xattr.startswith("trusted."):
                    os.setxattr(copy_fd, xattr, os.getxattr(donor_fd, xattr))
            os.fchmod(copy_fd, stat.S_IMODE(st.st_mode))
            os.utime(copy_fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(donor_fd)
            os.close(copy_fd)


def _open_directory(root: Path, name: str) -> int:
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(root_fd, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    finally:
        os.close(root_fd)
