import asyncio

import pytest

from orlop.base.keylock import Joiner, KeyLock
from orlop.base.supervise import Supervisor


async def test_a_second_caller_gets_the_result_of_the_running_call() -> None:
    supervisor = Supervisor("test")
    joiner: Joiner[int] = Joiner(supervisor)
    gate = asyncio.Event()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await gate.wait()
        return 7

    first = asyncio.ensure_future(joiner.run("a", work))
    second = asyncio.ensure_future(joiner.run("a", work))
    await asyncio.sleep(0)
    gate.set()
    assert [await first, await second] == [7, 7]
    assert runs == 1
    await supervisor.close()


async def test_work_is_finished_though_its_callers_have_gone() -> None:
    supervisor = Supervisor("test")
    joiner: Joiner[int] = Joiner(supervisor)
    gate = asyncio.Event()
    ended = []

    async def work() -> int:
        await gate.wait()
        ended.append(7)
        return 7

    caller = asyncio.ensure_future(joiner.run("a", work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await asyncio.sleep(0.01)
    assert ended == [7]
    await supervisor.close()


async def test_a_failure_is_every_callers_and_nobodys_defect(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor("test")
    joiner: Joiner[int] = Joiner(supervisor)

    async def work() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    outcomes = await asyncio.gather(joiner.run("a", work), joiner.run("a", work), return_exceptions=True)
    assert [str(each) for each in outcomes] == ["no", "no"]
    assert caplog.records == []
    await supervisor.close()


async def test_locks_of_one_key_exclude_each_other_and_are_dropped() -> None:
    locks = KeyLock()
    inside = 0

    async def enter() -> None:
        nonlocal inside
        async with locks.hold("k"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(10)))
    assert locks._locks == {}
