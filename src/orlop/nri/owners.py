"""Which plugin asked for which field of which container: two plugins may not set the same one.

A field is simple (a memory limit) or compound (one annotation of many, by key). A plugin that removes what another has set takes the field
over: only it may set the field again. Pure. Test: tests/unit/nri/test_merge.py.
"""

from __future__ import annotations

from orlop.base.errors import FailedPrecondition
from orlop.specs.nri_gen import nri_pb2 as nri

MARK = "-"


class Owners:
    """Owners of one container's fields."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, str | None], str] = {}
        self._cleared: dict[tuple[int, str | None], str] = {}

    def claim(self, field: int, plugin: str, key: str | None = None) -> None:
        """Make the plugin the field's owner. Raises FailedPrecondition naming both plugins when it has another, or this one already."""
        at = (field, key)
        holder = self._cleared.get(at) or self._of.get(at)
        if holder is not None and self._cleared.get(at) != plugin:
            name = nri.Field.Name(field)
            what = f"{name} {key}" if key is not None else name
            raise FailedPrecondition(f"plugins {plugin} and {holder} both set {what}")
        self._cleared.pop(at, None)
        self._of[at] = plugin

    def clear(self, field: int, plugin: str, key: str | None = None) -> None:
        """Let the plugin, and nobody else, set the field anew."""
        self._of.pop((field, key), None)
        self._cleared[(field, key)] = plugin

    def join(self, field: int, plugin: str) -> None:
        """Add an owner to a field that plugins share (hooks)."""
        before = self._of.get((field, None))
        self._of[(field, None)] = f"{before},{plugin}" if before else plugin

    def copy(self) -> Owners:
        made = Owners()
        made._of, made._cleared = dict(self._of), dict(self._cleared)
        return made

    def plugins(self) -> tuple[str, ...]:
        """Return all owners, each once, sorted."""
        return tuple(sorted({name for owner in self._of.values() for name in owner.split(",")}))

    def message(self) -> nri.FieldOwners:
        """Return what validators are told; a field that was only cleared carries its clearer behind the mark."""
        made = nri.FieldOwners()
        everything = {**{at: MARK + plugin for at, plugin in self._cleared.items()}, **self._of}
        for (field, key), plugin in everything.items():
            if key is None:
                made.simple[field] = plugin
            else:
                made.compound[field].owners[key] = plugin
        return made
