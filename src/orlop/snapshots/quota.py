"""Limits on writable layers: each limited container's directory is a project of its own in the file system's quotas.

The ids that are in use are read from the directories themselves, also those that wait in the trash: files keep their project until they are
gone, and a new container must not pay for them. Nothing is stored. Test: tests/kernel/snapshots/test_quota.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orlop.base.errors import FailedPrecondition
from orlop.base.paths import RootPaths
from orlop.kernel import quotactl

log = logging.getLogger(__name__)

FIRST: Final = 1 << 30
"""Far from the small numbers that administrators write into /etc/projid, and from kubelet's (1048577 and up)."""
COUNT: Final = 1 << 20


class ProjectQuotas:
    """Projects of one root directory; one is made by the daemon. Finds out at the first limit which ids are taken."""

    def __init__(self, paths: RootPaths) -> None:
        self._paths = paths
        self._last = 0
        self._possible: bool | None = None
        """As it was seen first: a file system begins to count only when it is mounted anew."""

    def missing(self) -> str:
        """Return why limits are not possible here; empty: they are."""
        reason = self._missing()
        self._possible = not reason
        return reason

    def _missing(self) -> str:
        with _opened(self._paths.containers) as fd:
            try:
                counted, enforced = quotactl.project_quota_state(fd)
                quotactl.project_of(fd)
            except OSError as error:
                return f"the file system of {self._paths.containers} has no project quotas: {error.strerror}"
        if not (counted and enforced):
            return f"the file system of {self._paths.containers} is not mounted with prjquota"
        return ""

    def limit(self, home: Path, size: int) -> None:
        """Let the empty directory ``home`` and all that will be below it take at most ``size`` bytes.

        Raises FailedPrecondition (not possible here), OSError.
        """
        if reason := self.missing():
            raise FailedPrecondition(f"{home.name}: a limit of {size} bytes on its writable layer: {reason}")
        project = self._next()
        with _opened(home) as fd:
            quotactl.set_project_limit(fd, project, size)
            quotactl.set_project(fd, project)

    def release(self, home: Path) -> None:
        """Take a limit away before its directory is thrown away: the id may come again."""
        if self._possible is None:
            self.missing()
        if not self._possible:
            return
        try:
            with _opened(home) as fd:
                project = quotactl.project_of(fd)
                if FIRST <= project < FIRST + COUNT:
                    quotactl.set_project_limit(fd, project, 0)
        except FileNotFoundError:
            return
        except OSError as error:
            # A limit without files does no harm, and the next one of this id replaces it.
            log.warning("%s: its quota was not taken back: %s", home, error)

    def _next(self) -> int:
        taken = self._taken()
        project = self._last or max(taken, default=FIRST - 1)
        for _ in range(COUNT):
            project = project + 1 if FIRST <= project + 1 < FIRST + COUNT else FIRST
            if project not in taken:
                self._last = project
                return project
        raise FailedPrecondition(f"{self._paths.containers}: all {COUNT} project ids are taken")

    def _taken(self) -> set[int]:
        found = set()
        for directory in (self._paths.containers, self._paths.trash):
            for entry in os.scandir(directory):
                try:
                    with _opened(Path(entry.path)) as fd:
                        project = quotactl.project_of(fd)
                except OSError:
                    # Removed meanwhile, or no directory: it has no project of ours.
                    continue
                if FIRST <= project < FIRST + COUNT:
                    found.add(project)
        return found


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
