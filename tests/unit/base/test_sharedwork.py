import asyncio

import pytest

from orlop.base.sharedwork import SharedWork
from orlop.base.supervise import Supervisor


async def test_shared_once_and_errors_reach_all() -> None:
    supervisor = Supervisor("test")
    shared: SharedWork[int] = SharedWork(supervisor.spawn)
    calls = 0

    async def work() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 2:
            raise ValueError("no")
        return calls

    assert await asyncio.gather(*(shared.run("k", work) for _ in range(3))) == [1, 1, 1]
    results = await asyncio.gather(*(shared.run("k", work) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3 and calls == 2
    assert not shared.is_running("k")


async def test_cancelled_with_the_last_waiter_only() -> None:
    supervisor = Supervisor("test")
    shared: SharedWork[int] = SharedWork(supervisor.spawn)
    undone = asyncio.Event()
    never = asyncio.Event()

    async def work() -> int:
        try:
            await never.wait()
        finally:
            await asyncio.sleep(0)
            undone.set()
        return 1

    waiters = [asyncio.ensure_future(shared.run("k", work)) for _ in range(2)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.wait([waiters[0]])
    assert not undone.is_set()
    waiters[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiters[1]
    assert undone.is_set()

    async def again() -> int:
        return 2

    assert await shared.run("k", again) == 2
