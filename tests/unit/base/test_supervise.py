"""base.supervise: work that runs at the same time."""

from __future__ import annotations

import asyncio

import pytest

from orlop.base.supervise import together


async def test_together_raises_when_all_have_ended() -> None:
    ended = []

    async def works() -> None:
        await asyncio.sleep(0.01)
        ended.append("slow")

    async def fails() -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await together(fails(), works())
    assert ended == ["slow"]


async def test_together_begins_each_before_any_has_ended() -> None:
    begun = []
    all_begun = asyncio.Event()

    async def one(name: str) -> None:
        begun.append(name)
        if len(begun) == 2:
            all_begun.set()
        await all_begun.wait()

    await together(one("a"), one("b"))
    assert begun == ["a", "b"]
