import asyncio

import pytest

from orlop.base.rollback import Rollback


async def test_undos_run_in_reverse_and_all_of_them() -> None:
    order: list[str] = []

    async def later() -> None:
        await asyncio.sleep(0)
        order.append("second")

    def broken() -> None:
        order.append("third")
        raise OSError("disk on fire")

    with pytest.raises(ValueError, match="step") as caught:
        async with Rollback("sandbox x") as undo:
            undo.push("first", lambda: order.append("first"))
            undo.push("second", later)
            undo.push("third", broken)
            raise ValueError("step")
    assert order == ["third", "second", "first"]
    assert caught.value.__notes__ == ["undo third failed: disk on fire"]


async def test_commit_keeps_everything() -> None:
    order: list[str] = []
    async with Rollback("sandbox x") as undo:
        undo.push("first", lambda: order.append("first"))
        undo.commit()
    assert order == []


async def test_cancellation_does_not_cut_an_undo_short() -> None:
    done = asyncio.Event()

    async def slow() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async def work() -> None:
        async with Rollback("sandbox x") as undo:
            undo.push("slow", slow)
            await asyncio.sleep(60)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
