"""Answers that are lists, as bytes: an entry is serialized once and kept as long as its object is the same.

Kubelet asks for all pods and all containers every second, and between two calls almost nothing has changed. A message with one
repeated field is, on the wire, the concatenation of its entries (tag, length, bytes), so a unary answer and the batches of a
streamed one are joined from the same pieces. Test: tests/unit/cri/test_entries.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from orlop.base import limits
from orlop.base.memo import Memo

V = TypeVar("V")

LENGTH_DELIMITED: Final = 2


def varint(value: int) -> bytes:
    """Return protobuf's encoding of a number from 0 to 2^64 - 1."""
    if value < 0x80:
        return _SMALL[value]
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


_SMALL: Final = tuple(bytes((value,)) for value in range(0x80))


def delimited(number: int, payload: bytes) -> bytes:
    """Return a field of bytes, text or a message with its number and length."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(payload)) + payload


class Entries(Generic[V]):
    """The entries of answers that list one kind of object: a unary response and, if there is one, a streamed response."""

    def __init__(
        self,
        responses: tuple[type[Message], ...],
        make: Callable[[V], Message | bytes],
        alive: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """``make`` returns an entry as a message, or already serialized. ``alive`` says whether a key still exists; it is asked when
        kept entries are thinned out.
        """
        numbers = {_repeated_field(each) for each in responses}
        if len(numbers) != 1:
            raise ValueError(f"{responses}: their lists have different field numbers")
        self._number = numbers.pop()
        self._make = make
        self._kept: Memo[V, bytes] = Memo(self.fresh, alive)

    def fresh(self, value: V) -> bytes:
        """Serialize one entry."""
        made = self._make(value)
        return delimited(self._number, made if isinstance(made, bytes) else made.SerializeToString())

    def kept(self, key: str, value: V) -> bytes:
        """Return the entry of an object that never changes, only is replaced; serialized when it is a new object."""
        return self._kept.of(key, value)


def _repeated_field(response: type[Message]) -> int:
    fields = [each for each in response.DESCRIPTOR.fields if each.is_repeated]
    if len(fields) != 1 or fields[0].message_type is None:
        raise ValueError(f"{response.DESCRIPTOR.full_name}: is not a list of messages")
    return int(fields[0].number)


async def batches(entries: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Join entries to messages of at most STREAM_BATCH_ITEMS and STREAM_BATCH_BYTES; a larger entry is a message of its own.

    No entries, no message: the end of the stream says that there are none.
    """
    batch: list[bytes] = []
    size = 0
    async for entry in _each(entries):
        if batch and (len(batch) == limits.STREAM_BATCH_ITEMS or size + len(entry) > limits.STREAM_BATCH_BYTES):
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(entry)
        size += len(entry)
    if batch:
        yield b"".join(batch)


async def _each(entries: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(entries, AsyncIterable):
        async for entry in entries:
            yield entry
    else:
        for entry in entries:
            yield entry
