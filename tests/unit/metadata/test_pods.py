from pathlib import Path

import msgspec
import pytest

from orlop.base.errors import AlreadyExists, NotFound
from orlop.base.ids import ContainerId, SandboxId, new_container_id, new_sandbox_id
from orlop.metadata.pods import ContainerRow, PodStore, SandboxRow
from orlop.specs.pod import (
    ContainerConfig,
    ContainerMetadata,
    ContainerState,
    KeyValue,
    SandboxConfig,
    SandboxMetadata,
    SandboxState,
)


def sandbox(name: str = "web") -> SandboxRow:
    return SandboxRow(
        id=new_sandbox_id(),
        name=name,
        config=SandboxConfig(metadata=SandboxMetadata(name=name), annotations={"a": "ü\n", "b": ""}),
        handler="",
        created_at=1,
        network=msgspec.Raw(b'{"ips":["10.0.0.1"]}'),
    )


def container(owner: SandboxRow, name: str = "c") -> ContainerRow:
    config = ContainerConfig(metadata=ContainerMetadata(name=name), envs=(KeyValue(key="K", value=b"\xff\x00=\n"),))
    return ContainerRow(
        id=new_container_id(), name=f"{name}_{owner.id}", sandbox_id=owner.id, config=config, reserved_at=2
    )


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = PodStore(tmp_path / "pods.db")
    pod = sandbox()
    store.add_sandbox(pod)
    row = container(pod)
    store.add_container(row)
    row = msgspec.structs.replace(row, created_at=3, started_at=4, layers=("sha256:aa",))
    store.put_container(row)
    store.close()

    again = PodStore(tmp_path / "pods.db")
    assert again.sandbox(pod.id).config == pod.config
    assert bytes(again.sandbox(pod.id).network) == b'{"ips":["10.0.0.1"]}'
    assert again.container(row.id) == row
    assert again.container(row.id).config.envs[0].value == b"\xff\x00=\n"
    assert again.containers_of(pod.id) == (row,)
    assert again.layers_in_use() == {"sha256:aa"}
    again.close()


def test_a_write_is_on_disk_although_the_store_is_never_closed(tmp_path: Path) -> None:
    PodStore(tmp_path / "pods.db").add_sandbox(pod := sandbox())
    assert PodStore(tmp_path / "pods.db").sandbox(pod.id).id == pod.id


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    store = PodStore(tmp_path / "pods.db")
    store.add_sandbox(first := sandbox("same"))
    with pytest.raises(AlreadyExists, match=first.id):
        store.add_sandbox(sandbox("same"))
    store.remove_sandbox(first.id)
    store.add_sandbox(sandbox("same"))
    store.close()


def test_ids_are_found_by_unambiguous_prefix(tmp_path: Path) -> None:
    store = PodStore(tmp_path / "pods.db")
    one = msgspec.structs.replace(sandbox("one"), id=SandboxId("abcd" + "1" * 60))
    two = msgspec.structs.replace(sandbox("two"), id=SandboxId("abcd" + "2" * 60))
    store.add_sandbox(one)
    store.add_sandbox(two)
    assert store.sandbox("abcd1").id == one.id
    for unclear in ("abcd", "abc", "", "ffff"):
        with pytest.raises(NotFound):
            store.sandbox(unclear)
    with pytest.raises(NotFound, match="container"):
        store.container(ContainerId("abcd1"))
    store.close()


def test_states_are_derived_from_facts() -> None:
    pod = sandbox()
    assert pod.state is SandboxState.NOTREADY
    ready = msgspec.structs.replace(pod, ready_at=2)
    assert ready.state is SandboxState.READY
    assert msgspec.structs.replace(ready, stopped_at=3).state is SandboxState.NOTREADY
    row = container(pod)
    assert row.state is ContainerState.UNKNOWN
    row = msgspec.structs.replace(row, created_at=1)
    assert row.state is ContainerState.CREATED
    row = msgspec.structs.replace(row, started_at=2)
    assert row.state is ContainerState.RUNNING
    assert msgspec.structs.replace(row, finished_at=3).state is ContainerState.EXITED


def test_every_change_of_a_row_is_a_new_revision(tmp_path: Path) -> None:
    store = PodStore(tmp_path / "pods.db")
    pod = sandbox()
    row = container(pod)
    changes = (
        lambda: store.add_sandbox(pod),
        lambda: store.put_sandbox(msgspec.structs.replace(pod, ready_at=1)),
        lambda: store.add_container(row),
        lambda: store.put_container(msgspec.structs.replace(row, created_at=1)),
        lambda: store.remove_container(row.id),
        lambda: store.remove_sandbox(pod.id),
    )
    seen = {store.revision}
    for change in changes:
        change()
        assert store.revision not in seen
        seen.add(store.revision)
    last = store.revision
    store.remove_sandbox(pod.id)
    store.remove_container(row.id)
    list(store.sandboxes()), list(store.containers())
    assert store.revision == last
    store.close()
