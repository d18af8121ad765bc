"""What a pull has done so far, for those who wait for it: all who joined one pull see the same figures.

Test: tests/kernel/registry/test_pull.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orlop.base.ids import Digest

INTERVAL_SECONDS = 0.1
"""Between two reports, apart from changes of state, which are told at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProgress:
    """One layer: ``state`` is waiting, downloading, present or done; sizes are of compressed bytes."""

    digest: Digest
    size: int
    downloaded: int
    unpacked: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """A report; ``stage`` is resolving, layers, committing or done."""

    reference: str
    stage: str
    layers: tuple[LayerProgress, ...]


@dataclass(slots=True)
class LayerTrack:
    """Figures of a layer at work; written from several threads, each field by one."""

    digest: Digest
    size: int
    downloaded: int = 0
    unpacked: int = 0
    state: str = "waiting"


@dataclass(slots=True)
class PullTracker:
    """The figures of one pull and those who listen."""

    reference: str
    stage: str = "resolving"
    layers: dict[Digest, LayerTrack] = field(default_factory=dict)
    listeners: list[Callable[[PullProgress], None]] = field(default_factory=list)
    _told: float = 0.0

    def report(self) -> PullProgress:
        return PullProgress(
            reference=self.reference,
            stage=self.stage,
            layers=tuple(
                LayerProgress(
                    digest=track.digest,
                    size=track.size,
                    downloaded=track.downloaded,
                    unpacked=track.unpacked,
                    state=track.state,
                )
                for track in self.layers.values()
            ),
        )

    def enter(self, stage: str) -> None:
        self.stage = stage
        self.tell()

    def moved(self) -> None:
        """Tell the listeners, unless they were told just now."""
        if self.listeners and time.monotonic() - self._told >= INTERVAL_SECONDS:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        if self.listeners:
            report = self.report()
            for listener in tuple(self.listeners):
                listener(report)
