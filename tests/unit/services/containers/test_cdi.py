"""Which document describes a device, and what its edits do to a runtime spec."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop.base import limits
from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unimplemented
from orlop.services.containers.cdi import CdiCatalog, apply_edits, asked_devices, edit_spec
from orlop.specs import cdi
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig, ContainerMetadata

SPEC = oci.RuntimeSpec(
    oci_version="1.3.0",
    process=oci.Process(args=("x",), cwd="/", env=("A=1", "B=2"), user=oci.User(additional_gids=(0,))),
    root=oci.Root(path="rootfs"),
    mounts=(
        oci.Mount(destination="/proc", type="proc", source="proc"),
        oci.Mount(destination="/dev/shm", type="tmpfs", source="shm"),
        oci.Mount(destination="/etc/hosts", type="bind", source="/h"),
    ),
    linux=oci.Linux(
        resources=oci.Resources(devices=(oci.DeviceCgroup(allow=False, access="rwm"),)),
        devices=(oci.Device(path="/dev/x", type="c", major=9, minor=9),),
    ),
)


def write(
    directory: Path, name: str, *devices: str, kind: str = "v.com/d", env: str = "FROM=file", **edits: Any
) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(
        json.dumps(
            {
                "cdiVersion": "0.6.0",
                "kind": kind,
                "containerEdits": {"env": [env]},
                "devices": [
                    {"name": each, "containerEdits": {"env": [f"DEVICE_{each}={name}"], **edits}} for each in devices
                ],
            }
        )
    )
    path.chmod(0o644)
    return path


def process(spec: oci.RuntimeSpec) -> oci.Process:
    assert spec.process is not None
    return spec.process


def linux(spec: oci.RuntimeSpec) -> oci.Linux:
    assert spec.linux is not None
    return spec.linux


def edited(**edits: Any) -> oci.RuntimeSpec:
    return apply_edits(SPEC, msgspec.convert(edits, cdi.ContainerEdits), "v.com/d=0")


# ---- the catalog


def test_later_directories_win_and_changes_are_seen(tmp_path: Path) -> None:
    low, high = tmp_path / "etc", tmp_path / "run"
    catalog = CdiCatalog((low, high))
    with pytest.raises(NotFound, match=rf"^v.com/d=a: no document in {low}, {high} describes it$"):
        catalog.find(["v.com/d=a"])
    write(low, "one.json", "a", "b")
    write(high, "two.json", "a")
    found = catalog.find(["v.com/d=a", "v.com/d=b", "v.com/d=a"])
    assert [each.device.container_edits.env[0] for each in found] == ["DEVICE_a=two.json", "DEVICE_b=one.json"]
    again = catalog.find(["v.com/d=b"])
    assert again[0].spec is found[1].spec, "a file that did not change is not read again"
    (high / "two.json").unlink()
    assert catalog.find(["v.com/d=a"])[0].device.container_edits.env == ("DEVICE_a=one.json",)
    write(low, "one.json", "c")
    os.utime(low / "one.json", ns=(1, 1))
    with pytest.raises(NotFound):
        catalog.find(["v.com/d=a"])


def test_two_documents_of_one_directory_are_a_conflict(tmp_path: Path) -> None:
    one, two = write(tmp_path, "1.json", "a", "b"), write(tmp_path, "2.json", "a")
    catalog = CdiCatalog((tmp_path,))
    with pytest.raises(FailedPrecondition, match=f"^v.com/d=a: described by both {one} and {two}$"):
        catalog.find(["v.com/d=a"])
    assert catalog.find(["v.com/d=b"])
    write(tmp_path / "run", "3.json", "a")
    assert CdiCatalog((tmp_path, tmp_path / "run")).find(["v.com/d=a"])[0].device.container_edits.env == (
        "DEVICE_a=3.json",
    )


def test_a_wrong_document_spoils_only_itself_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, "good.json", "a")
    (tmp_path / "bad.yaml").write_text("kind: [")
    (tmp_path / "ignored.txt").write_text("no document")
    (tmp_path / "directory.json").mkdir()
    open_to_all = write(tmp_path, "open.json", "o")
    open_to_all.chmod(0o666)
    os.mkfifo(tmp_path / "fifo.yaml")
    catalog = CdiCatalog((tmp_path,))
    assert catalog.find(["v.com/d=a"])
    with pytest.raises(NotFound) as caught:
        catalog.find(["v.com/d=o"])
    for part in (
        "bad.yaml: not valid YAML",
        "directory.json: not a file",
        "fifo.yaml: not a file",
        "anybody may write it",
    ):
        assert part in str(caught.value)


def test_what_an_operator_sees(tmp_path: Path) -> None:
    write(tmp_path, "good.json", "a", "b")
    (tmp_path / "bad.yaml").write_text("kind: [")
    shown = CdiCatalog((tmp_path, tmp_path / "missing")).describe()
    assert shown["specDirs"] == [str(tmp_path), str(tmp_path / "missing")]
    assert shown["devices"] == ["v.com/d=a", "v.com/d=b"]
    (error,) = shown["errors"]
    assert error.startswith(f"{tmp_path}/bad.yaml: not valid YAML")
    assert CdiCatalog(()).describe() == {"specDirs": [], "devices": [], "errors": []}


def test_limits_and_off(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="CDI is off on this node: runtime.cdi_spec_dirs is empty"):
        CdiCatalog(()).find(["v.com/d=a"])
    for number in range(limits.CDI_SPEC_FILES + 1):
        (tmp_path / f"{number}.json").touch()
    with pytest.raises(ResourceExhausted, match="257 CDI documents, limit 256"):
        CdiCatalog((tmp_path,)).find(["v.com/d=a"])


# ---- what is asked for


def test_fields_and_annotations(tmp_path: Path) -> None:
    config = ContainerConfig(
        metadata=ContainerMetadata(name="c"),
        cdi_devices=("v.com/d=a",),
        annotations={"cdi.k8s.io/x": "v.com/d=b, v.com/d=a", "other": "v.com/d=c"},
    )
    assert asked_devices(config) == ("v.com/d=a", "v.com/d=b")
    wrong = msgspec.structs.replace(config, cdi_devices=("a",))
    with pytest.raises(InvalidArgument, match=r"^container c: CDI_devices\[0\]: 'a' is not VENDOR"):
        asked_devices(wrong)
    wrong = msgspec.structs.replace(config, annotations={"cdi.k8s.io/x": ""})
    with pytest.raises(InvalidArgument, match=r"annotations\[cdi.k8s.io/x\]: '' is not"):
        asked_devices(wrong)
    many = msgspec.structs.replace(config, cdi_devices=tuple(f"v.com/d={n}" for n in range(257)))
    with pytest.raises(ResourceExhausted, match="CDI_devices: 25"):
        asked_devices(many)


# ---- edits


def test_a_documents_own_edits_come_once_and_before_the_devices(tmp_path: Path) -> None:
    write(tmp_path, "one.json", "a", "b")
    write(tmp_path, "two.json", "x", kind="w.com/d", env="FROM=two")
    spec = edit_spec(SPEC, CdiCatalog((tmp_path,)), ["v.com/d=a", "v.com/d=b", "w.com/d=x"], "container c")
    assert process(spec).env == (
        "A=1",
        "B=2",
        "FROM=two",
        "DEVICE_a=one.json",
        "DEVICE_b=one.json",
        "DEVICE_x=two.json",
    )
    with pytest.raises(NotFound, match="^container c: CDI device v.com/d=z: no document"):
        edit_spec(SPEC, CdiCatalog((tmp_path,)), ["v.com/d=z"], "container c")


def test_environment_and_groups() -> None:
    spec = edited(env=["B=new", "C=3"], additionalGids=[44, 0, 44])
    assert process(spec).env == ("A=1", "B=new", "C=3")
    assert process(spec).user.additional_gids == (0, 44)


def test_nodes_take_what_they_leave_out_from_the_host() -> None:
    spec = edited(deviceNodes=[{"path": "/dev/mine", "hostPath": "/dev/null", "permissions": "r"}])
    made = linux(spec).devices[-1]
    assert (made.path, made.type, made.major, made.minor) == ("/dev/mine", "c", 1, 3)
    resources = linux(spec).resources
    assert resources is not None
    assert resources.devices[-1] == oci.DeviceCgroup(allow=True, type="c", major=1, minor=3, access="r")


def test_nodes_that_say_all_need_no_host_and_replace_others() -> None:
    node = {"path": "/dev/x", "type": "b", "major": 7, "minor": 200, "fileMode": 0o600, "uid": 5, "gid": 6}
    spec = edited(deviceNodes=[node])
    assert linux(spec).devices == (
        oci.Device(path="/dev/x", type="b", major=7, minor=200, file_mode=0o600, uid=5, gid=6),
    )


def test_a_node_that_is_given_to_nobody_is_the_users() -> None:
    user = oci.User(uid=1000, gid=1001)
    mine = msgspec.structs.replace(SPEC, process=msgspec.structs.replace(process(SPEC), user=user))
    edits = msgspec.convert({"deviceNodes": [{"path": "/dev/null"}]}, cdi.ContainerEdits)
    made = linux(apply_edits(mine, edits, "d")).devices[-1]
    assert (made.uid, made.gid) == (1000, 1001)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"path": "/dev/missing-device"}, "/dev/missing-device is not a device of this host"),
        ({"path": "/dev/y", "hostPath": "/etc/passwd"}, "/etc/passwd is not a device"),
        ({"path": "/dev/null", "type": "b"}, "/dev/null is of type c, not b"),
    ],
)
def test_nodes_that_are_not_there(node: dict[str, Any], words: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"^v.com/d=0: containerEdits.deviceNodes: {words}"):
        edited(deviceNodes=[node])


def test_mounts_replace_others_and_lie_by_depth(tmp_path: Path) -> None:
    mounts = [
        {"hostPath": str(tmp_path), "containerPath": "/etc/hosts", "options": ["ro", "bind"]},
        {"hostPath": "/", "containerPath": "/a"},
        {"hostPath": "none", "containerPath": "/b", "type": "tmpfs"},
    ]
    mounts[2]["hostPath"] = "/none"
    found = [(each.destination, each.type, each.source, each.options) for each in edited(mounts=mounts).mounts]
    assert found == [
        ("/proc", "proc", "proc", ()),
        ("/a", "bind", "/", ("rbind",)),
        ("/b", "tmpfs", "/none", ()),
        ("/dev/shm", "tmpfs", "shm", ()),
        ("/etc/hosts", "bind", str(tmp_path), ("ro", "bind")),
    ]
    with pytest.raises(FailedPrecondition, match=r"containerEdits.mounts: /no/such is not there"):
        edited(mounts=[{"hostPath": "/no/such", "containerPath": "/a"}])


@pytest.mark.parametrize(
    ("edits", "field"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}, "hooks"),
        ({"intelRdt": {"closID": "x"}}, "intelRdt"),
        ({"netDevices": [{"hostInterfaceName": "eth0", "name": "eth1"}]}, "netDevices"),
    ],
)
def test_what_is_not_built_is_refused(edits: dict[str, Any], field: str) -> None:
    with pytest.raises(Unimplemented, match=f"^v.com/d=0: containerEdits.{field}: "):
        edited(**edits)
