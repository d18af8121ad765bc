"""A container's root: overlayfs over the layers of its image, as a detached mount that is nowhere in the host's tree.

    containers/<id>/{upper,work}     the writable layer; made by prepare, thrown away by remove
    containers/<id>/volumes/<n>      volumes of the container's own; made by make_volume, thrown away with it

The returned fd is the mount: it goes to the monitor, and when the last holder closes it the mount is gone. So a crash
leaves directories, which ``remove_orphans`` finds, and never a mount. Owns the writable layers and the overlay's
options; never knows images. Kernels before 6.7 cannot name layers one by one; there the overlay is mounted for an
instant below the container's own directory, cloned and unmounted. Test: tests/kernel/snapshots/test_overlay.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from orlop.base.errors import FailedPrecondition, Internal, NotFound, ResourceExhausted
from orlop.base.ids import ContainerId
from orlop.base.paths import RootPaths
from orlop.base.trash import Trash
from orlop.kernel import mount
from orlop.snapshots.quota import ProjectQuotas
from orlop.snapshots.subpath import clone_below

# Longer values are refused by fsconfig(2) (strndup_user of 256).
_VALUE_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a writable layer takes."""

    bytes: int
    inodes: int


class OverlaySnapshots:
    """Prepares and removes container roots; constructed once."""

    def __init__(self, paths: RootPaths, trash: Trash) -> None:
        self._paths = paths
        self._trash = trash
        self.quotas = ProjectQuotas(paths)
        """Limits on what a writable layer takes."""
        self._stepwise: bool | None = None
        """Whether the kernel takes layers one by one; found out by the first mount."""

    def prepare(self, container_id: ContainerId, layers: Sequence[Path], *, size: int = 0) -> int:
        """Make a container's writable layer over ``layers`` (lowest first) and return its root as a detached mount fd.

        ``size`` is the most that the layer may take, in bytes; 0: no limit. The fd is the caller's. On failure nothing
        remains. Raises NotFound (a layer's directory is missing), ResourceExhausted, FailedPrecondition (no limits on
        this file system), Internal.
        """
        home = self._paths.containers / container_id
        subject = f"container {container_id}"
        try:
            home.mkdir(mode=0o700)
            if size:
                self.quotas.limit(home, size)
            upper = home / "upper"
            upper.mkdir()
            # The root directory of the container: what the umask took away is given back.
            upper.chmod(0o755)
            (home / "work").mkdir(mode=0o700)
            return self._overlay(subject, layers, home)
        except BaseException as error:
            self._trash.discard(home)
            if isinstance(error, OSError):
                raise _failure(error, f"{subject}: cannot make its root") from error
            raise

    def view(self, subject: str, layers: Sequence[Path], *, sub_path: str = "", userns_fd: int = -1) -> int:
        """Return a read-only detached mount of an image's layers (lowest first), or of a part of it, for an image volume.

        ``userns_fd`` is a user namespace whose mapping the owners of files are shown by. The fd is the caller's, and all that there is:
        with its last holder the view is gone. Raises NotFound (a layer, the sub path), InvalidArgument (sub path), FailedPrecondition (the
        layers cannot be id-mapped), ResourceExhausted, Internal.
        """
        try:
            # overlayfs wants two lower layers when there is no upper one; a lone layer has whiteouts that must not
            # show.
            stack = [self._paths.empty, *layers]
            whole = self._mapped(subject, stack, userns_fd) if userns_fd >= 0 else self._overlay(subject, stack, None)
            if not sub_path:
                return whole
            try:
                return clone_below(whole, sub_path, self._paths.staging, subject, detached=self._stepwise is not False)
            finally:
                os.close(whole)
        except OSError as error:
            raise _failure(error, f"{subject}: cannot mount its layers") from error

    def _mapped(self, subject: str, layers: Sequence[Path], userns_fd: int) -> int:
        """overlayfs itself cannot be id-mapped, its layers can: one clone of the directory above all of them is.

        Kernels before 6.15 take no layers from a mount that is nowhere: there it is attached for an instant.
        """
        common = mount.open_tree(mount.AT_FDCWD, str(self._paths.root), mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC)
        try:
            try:
                mount.mount_setattr(
                    common, "", mount.AT_EMPTY_PATH, attr_set=mount.MOUNT_ATTR_IDMAP, userns_fd=userns_fd
                )
            except OSError as error:
                raise FailedPrecondition(
                    f"{subject}: the layers in {self._paths.root} cannot be id-mapped on this kernel: {error.strerror}"
                ) from error
            if self._stepwise is not False:
                try:
                    return self._mount_stepwise(self._below(f"/proc/self/fd/{common}", layers), None)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
            target = tempfile.mkdtemp(prefix="mapped-", dir=self._paths.staging)
            try:
                mount.move_mount(common, "", mount.AT_FDCWD, target, mount.MOVE_MOUNT_F_EMPTY_PATH)
                try:
                    return self._overlay(subject, self._below(target, layers), None)
                finally:
                    mount.umount2(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
            finally:
                os.rmdir(target)
        finally:
            os.close(common)

    def _below(self, directory: str, layers: Sequence[Path]) -> list[Path]:
        return [Path(directory) / layer.relative_to(self._paths.root) for layer in layers]

    def make_volume(self, container_id: ContainerId, number: int) -> Path:
        """Make an empty directory beside a container's writable layer, which goes when that goes. Raises ResourceExhausted, Internal."""
        made = self._paths.containers / container_id / "volumes" / str(number)
        try:
            made.parent.mkdir(mode=0o700, exist_ok=True)
            made.mkdir()
            made.chmod(0o755)  # what the umask took away; an image's directory brings its own mode
        except OSError as error:
            raise _failure(error, f"container {container_id}: cannot make a volume") from error
        return made

    def remove(self, container_id: ContainerId) -> None:
        """Throw a container's writable layer away; one that is not there is removed already."""
        home = self._paths.containers / container_id
        self.quotas.release(home)
        self._trash.discard(home)

    def remove_orphans(self, containers: Collection[ContainerId]) -> list[str]:
        """Throw away the writable layers of all other containers; returns their ids."""
        orphans = [entry.name for entry in os.scandir(self._paths.containers) if entry.name not in containers]
        for name in orphans:
            _unmount_leftover(self._paths.containers / name / "root")
            self.quotas.release(self._paths.containers / name)
            self._trash.discard(self._paths.containers / name)
        return orphans

    async def usage(self, container_id: ContainerId) -> Usage:
        """Count bytes and inodes of a writable layer; raises NotFound."""
        return await asyncio.to_thread(self.count, container_id)

    def count(self, container_id: ContainerId) -> Usage:
        """As ``usage``, in the caller's thread."""
        return _count(self._paths.containers / container_id / "upper", container_id)

    def _overlay(self, subject: str, layers: Sequence[Path], home: Path | None) -> int:
        if self._stepwise is not False:
            try:
                fd = self._mount_stepwise(layers, home)
            except OSError as error:
                if self._stepwise or error.errno != errno.EINVAL or not str(error.filename).startswith("lowerdir+"):
                    raise
            else:
                self._stepwise = True
                return fd
        self._stepwise = False
        return self._mount_and_clone(subject, layers, home)

    def _mount_stepwise(self, layers: Sequence[Path], home: Path | None) -> int:
        fs = mount.fsopen("overlay", mount.FSOPEN_CLOEXEC)
        try:
            for layer in reversed(layers):
                _set_directory(fs, "lowerdir+", layer)
            if home is not None:
                _set_directory(fs, "upperdir", home / "upper")
                _set_directory(fs, "workdir", home / "work")
                # A writable layer does not outlive a crash of the machine, so syncs of the container need not wait
                # for the disk.
                mount.fsconfig_set_flag(fs, "volatile")
            mount.fsconfig_create(fs)
            return mount.fsmount(fs, mount.FSMOUNT_CLOEXEC, 0 if home is not None else mount.MOUNT_ATTR_RDONLY)
        finally:
            os.close(fs)

    def _mount_and_clone(self, subject: str, layers: Sequence[Path], home: Path | None) -> int:
        """The way of kernels before 6.7: mount(2) takes all layers in one page, so they are named by short fd paths."""
        fds = [os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in reversed(layers)]
        target = home / "root" if home is not None else self._paths.staging / f"view-{os.getpid()}-{fds[0]}"
        try:
            options = "lowerdir=" + ":".join(f"/proc/self/fd/{fd}" for fd in fds)
            if home is not None:
                options += f",upperdir={home}/upper,workdir={home}/work,volatile"
            if len(options) >= os.sysconf("SC_PAGE_SIZE"):
                raise ResourceExhausted(f"{subject}: {len(layers)} layers are too many for this kernel")
            target.mkdir(mode=0o700)
            flags = 0 if home is not None else mount.MS_RDONLY
            mount.mount("overlay", str(target), "overlay", flags, options)
            try:
                return mount.open_tree(
                    mount.AT_FDCWD,
                    str(target),
                    mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC | mount.AT_SYMLINK_NOFOLLOW,
                )
            finally:
                mount.umount2(str(target), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
                target.rmdir()
        finally:
            for fd in fds:
                os.close(fd)

    def unmount_leftovers(self) -> None:
        """Unmount what a daemon that died between attaching and unmounting left in ``staging/``; before anybody clears it.

        Only kernels that cannot do without that instant (before 6.7, before 6.15 for sub paths) have it.
        """
        for entry in os.scandir(self._paths.staging):
            _unmount_leftover(Path(entry.path))


def _unmount_leftover(target: Path) -> None:
    if target.is_dir() and target.is_mount():
        mount.umount2(str(target), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _set_directory(fs: int, key: str, directory: Path) -> None:
    path = str(directory)
    if len(os.fsencode(path)) <= _VALUE_BYTES:
        mount.fsconfig_set_string(fs, key, path)
        return
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.fsconfig_set_string(fs, key, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _failure(error: OSError, subject: str) -> NotFound | ResourceExhausted | Internal:
    text = f"{subject}: {error.filename}: {error.strerror}"
    if error.errno == errno.ENOENT:
        return NotFound(text)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return ResourceExhausted(text)
    return Internal(text)


def _count(upper: Path, container_id: ContainerId) -> Usage:
    total = inodes = 0
    seen: set[int] = set()
    pending = [str(upper)]
    try:
        root = os.lstat(upper)
    except FileNotFoundError as error:
        raise NotFound(f"container {container_id}: has no writable layer") from error
    total, inodes = root.st_blocks * 512, 1
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except (FileNotFoundError, NotADirectoryError):
            # The container works on the tree while it is counted.
            continue
        for entry in entries:
            try:
                st = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if st.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if st.st_ino in seen:
                    continue
                seen.add(st.st_ino)
            total += st.st_blocks * 512
            inodes += 1
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return Usage(bytes=total, inodes=inodes)
