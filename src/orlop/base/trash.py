"""Slow removals made quick: a directory is renamed into the trash at once and deleted by one background thread.

A rename is atomic, so nobody sees half a directory, and what a crash leaves in the trash is deleted at the next
start. How a tree is deleted is passed in (kernel.unpack.remove_tree: no links followed, no GIL). Test:
tests/unit/base/test_trash.py.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

log = logging.getLogger(__name__)

RemoveTree = Callable[[int, str], None]
"""remove(parent_fd, name)"""


class Trash:
    """Owns one directory on the filesystem of whatever is thrown away."""

    def __init__(self, directory: Path, remove_tree: RemoveTree) -> None:
        self._directory = directory
        self._remove_tree = remove_tree
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="orlop-trash")
        self._pending: set[Future[None]] = set()

    def discard(self, path: Path) -> bool:
        """Take a directory out of sight and delete it in the background; False when there was none."""
        name = f"{path.name}.{secrets.token_hex(4)}"
        try:
            os.rename(path, self._directory / name)
        except FileNotFoundError:
            return False
        self._delete_later(name)
        return True

    def empty(self) -> None:
        """Delete in the background what an earlier run left."""
        for name in os.listdir(self._directory):
            self._delete_later(name)

    def statistics(self) -> dict[str, int]:
        return {"trash_pending": len(self._pending)}

    def drain(self) -> None:
        """Wait until everything thrown away so far is gone."""
        for future in list(self._pending):
            future.result()

    def close(self) -> None:
        """Finish the deletion that runs; the rest is found at the next start."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _delete_later(self, name: str) -> None:
        future = self._executor.submit(self._delete, name)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

    def _delete(self, name: str) -> None:
        parent = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                self._remove_tree(parent, name)
            except NotADirectoryError:
                os.unlink(name, dir_fd=parent)
        except OSError as error:
            # It stays in the trash, out of everybody's sight, and the next start tries again.
            log.warning("trash %s: cannot delete: %s", name, error)
        finally:
            os.close(parent)
