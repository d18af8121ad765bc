"""The images database: which images exist, under which names, of which layers. A row exists only if all its content
does.

    images  id TEXT PRIMARY KEY, boot TEXT, facts BLOB       facts = JSON of ImageRow
    names   name TEXT PRIMARY KEY, image_id TEXT             ``repo:tag`` and ``repo@digest``, fully qualified

``boot`` is the boot id under which the row was written until the image's content is known to be on the disk, then
empty. A row of another boot with ``boot`` set describes content that a power loss may have torn: recovery removes it.
So a pull does not wait for the disk, and yet no image survives half.

All rows are also kept in memory; readers never touch the disk. Writes go through one thread (synchronous=FULL). Knows
no file of an image. Test: tests/unit/metadata/test_images.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from orlop.base.ids import DiffId, Digest, ImageId
from orlop.metadata.db import Writer, open_database

MIGRATIONS = (
    """
    CREATE TABLE images (id TEXT PRIMARY KEY, boot TEXT NOT NULL, facts BLOB NOT NULL) STRICT;
    CREATE TABLE names (
      name TEXT PRIMARY KEY, image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT;
    CREATE INDEX names_by_image ON names (image_id)
    """,
)


class ImageRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts of an image, found out when it was pulled."""

    id: ImageId
    diff_ids: tuple[DiffId, ...]
    """Lowest first."""
    chain: str = ""
    """ChainID whose completing directory is the topmost layer; empty when none is needed."""
    size: int
    """Of manifest, config and compressed layers, as CRI counts."""
    unpacked_size: int = 0
    blobs: tuple[Digest, ...] = ()
    """Documents in the content store: index, manifest, config."""
    architecture: str = ""
    os: str = ""
    created: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = {}
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    pinned: bool = False
    pulled_at: int = 0
    """Nanoseconds since the epoch; a pull that finds the image present counts."""


class ImageStore:
    """The rows, in memory and on disk; on disk first. Used from one event loop."""

    def __init__(self, path: Path) -> None:
        connection = open_database(path, MIGRATIONS, synchronous="FULL")
        self._rows: dict[ImageId, ImageRow] = {}
        self._unsynced: dict[ImageId, str] = {}
        self._names: dict[str, ImageId] = {}
        self._names_of: dict[ImageId, dict[str, None]] = {}
        decoder = msgspec.json.Decoder(ImageRow)
        for image_id, boot, facts in connection.execute("SELECT id, boot, facts FROM images ORDER BY rowid"):
            self._rows[ImageId(image_id)] = decoder.decode(facts)
            if boot:
                self._unsynced[ImageId(image_id)] = boot
        for name, image_id in connection.execute("SELECT name, image_id FROM names ORDER BY rowid"):
            self._remember_name(name, ImageId(image_id))
        self._writer = Writer(connection, "orlop-images-db")

    def close(self) -> None:
        self._writer.close()

    def rows(self) -> list[ImageRow]:
        return list(self._rows.values())

    def row(self, image_id: ImageId) -> ImageRow | None:
        return self._rows.get(image_id)

    def named(self, name: str) -> ImageId | None:
        """Return the image of a fully qualified name."""
        return self._names.get(name)

    def names(self, image_id: ImageId) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tags and the digests of an image, in the order in which they were given."""
        names = self._names_of.get(image_id, {})
        return tuple(n for n in names if "@" not in n), tuple(n for n in names if "@" in n)

    def unsynced(self) -> dict[ImageId, str]:
        """Return the images that may not be on the disk yet, with the boot under which they were written."""
        return dict(self._unsynced)

    async def put(self, row: ImageRow, names: Iterable[str], boot: str) -> None:
        """Add or replace an image and give it names, in one transaction; a name that another image has moves here.

        ``boot`` is empty when the content is known to be on the disk.
        """
        given = tuple(names)
        facts = msgspec.json.encode(row)

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO images VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, facts = excluded.facts",
                (row.id, boot, facts),
            )
            db.executemany(
                "INSERT INTO names VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id",
                [(name, row.id) for name in given],
            )

        await self._writer.run(write)
        self._rows[row.id] = row
        if boot:
            self._unsynced[row.id] = boot
        else:
            self._unsynced.pop(row.id, None)
        for name in given:
            self._remember_name(name, row.id)

    async def synced(self, image_ids: Iterable[ImageId]) -> None:
        """Record that the content of images has reached the disk."""
        ids = [image_id for image_id in image_ids if image_id in self._unsynced]
        if not ids:
            return

        def write(db: sqlite3.Connection) -> None:
            db.executemany("UPDATE images SET boot = '' WHERE id = ?", [(image_id,) for image_id in ids])

        await self._writer.run(write)
        for image_id in ids:
            self._unsynced.pop(image_id, None)

    async def remove(self, image_id: ImageId) -> None:
        """Remove an image with all its names; one that is not there is removed already.

        It is out of sight at once, on the disk when this returns: only then may its content go.
        """
        self._rows.pop(image_id, None)
        self._unsynced.pop(image_id, None)
        for name in self._names_of.pop(image_id, {}):
            self._names.pop(name, None)

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM images WHERE id = ?", (image_id,))

        await self._writer.run(write)

    def _remember_name(self, name: str, image_id: ImageId) -> None:
        before = self._names.get(name)
        if before is not None and before != image_id:
            self._names_of[before].pop(name, None)
        self._names[name] = image_id
        self._names_of.setdefault(image_id, {})[name] = None
