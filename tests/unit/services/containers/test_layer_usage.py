from orlop.base.errors import NotFound
from orlop.services.containers.layer_usage import LEAST_NS, LayerUsages
from orlop.snapshots.overlay import Usage


async def test_layers_are_counted_when_old_and_missing_ones_left_out(monkeypatch):
    counted = []

    def count(container_id):
        counted.append(container_id)
        if container_id == "gone":
            raise NotFound("gone")
        return Usage(bytes=len(counted), inodes=1)

    clock = [LEAST_NS]
    monkeypatch.setattr("orlop.services.containers.layer_usage.time.time_ns", lambda: clock[0])
    usages = LayerUsages(count, "/layers")
    first = await usages.of(["a", "gone", "b"])
    assert set(first) == {"a", "b"}
    assert (first["a"].mountpoint, first["a"].timestamp, first["b"].used_bytes) == ("/layers", LEAST_NS, 3)
    assert await usages.of(["b", "a"]) == first
    assert counted == ["a", "gone", "b"]
    clock[0] += 1000 * LEAST_NS
    assert (await usages.of(["a"]))["a"].used_bytes == 4
    usages.forget("a")
    await usages.of(["a"])
    assert counted[-2:] == ["a", "a"]
