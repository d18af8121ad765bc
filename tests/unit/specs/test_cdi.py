"""CDI documents: both forms, every check, and nothing that costs more than its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import InvalidArgument, ResourceExhausted
from orlop.specs.cdi import VERSIONS, CdiSpec, DeviceNode, parse_cdi, split_device

YAML = b"""\
cdiVersion: 0.6.0
kind: vendor.com/gpu
annotations: {a: b}
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/gpu0
          hostPath: /dev/null
          fileMode: 0660
      additionalGids: [44]
containerEdits:
  env: [GPU=all]
  mounts:
    - hostPath: /usr/lib
      containerPath: /usr/lib
      options: [ro, bind]
"""


def document(**changes: Any) -> dict[str, Any]:
    edits = {"env": ["A=b"]}
    return {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/gpu",
        "devices": [{"name": "0", "containerEdits": edits}],
        **changes,
    }


def edited(**edits: Any) -> dict[str, Any]:
    return document(devices=[{"name": "0", "containerEdits": edits}])


def parsed(value: object) -> CdiSpec:
    return parse_cdi(json.dumps(value).encode(), name="x.json")


def test_yaml() -> None:
    spec = parse_cdi(YAML, name="x.yaml")
    (node,) = spec.devices[0].container_edits.device_nodes
    assert node == DeviceNode(path="/dev/gpu0", host_path="/dev/null", file_mode=0o660)
    assert spec.devices[0].container_edits.additional_gids == (44,)
    assert spec.container_edits.env == ("GPU=all",)
    assert spec.container_edits.mounts[0].options == ("ro", "bind")


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(version: str) -> None:
    assert parsed(document(cdiVersion=version)).cdi_version == version


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (document(cdiVersion="0.2.0"), "cdiVersion: '0.2.0' is not one of 0.3.0"),
        (document(cdiVersion="9.0.0"), "cdiVersion: '9.0.0'"),
        (document(kind="gpu"), "kind: 'gpu' is not VENDOR/CLASS"),
        (document(kind="vendor.com/../etc"), "kind: .* is not VENDOR/CLASS"),
        (document(devices=[]), "devices: none"),
        (document(more=1), "unknown field `more`"),
        (document(devices=[{"name": "0", "containerEdits": {}}]), r"devices\[0\].containerEdits: empty"),
        (document(devices=document()["devices"] * 2), r"devices\[1\].name: '0' is given twice"),
        (document(devices=[{"name": "a/b", "containerEdits": {"env": ["A=b"]}}]), "'a/b' is not a device's name"),
        (document(devices=[{"name": "0", "containerEdits": {"nodes": []}}]), "unknown field `nodes`"),
        (document(containerEdits={"env": ["A"]}), r"containerEdits.env\[0\]: 'A' is not NAME=value"),
        (edited(env=["A\nB=c"]), "is not NAME=value"),
        (edited(deviceNodes=[{"path": "dev/x"}]), r"deviceNodes\[0\].path: 'dev/x' is not an absolute path"),
        (edited(deviceNodes=[{"path": "/dev/x", "hostPath": "x"}]), r"deviceNodes\[0\].hostPath"),
        (edited(deviceNodes=[{"path": "/dev/x", "type": "z"}]), "type: 'z'"),
        (edited(deviceNodes=[{"path": "/dev/x", "permissions": "rx"}]), "permissions: 'rx'"),
        (edited(deviceNodes=[{"path": "/dev/x", "major": -1}]), "major: -1 is out of range"),
        (edited(deviceNodes=[{"path": "/dev/x", "fileMode": 0o10000}]), "fileMode: 4096 is not a mode"),
        (edited(mounts=[{"hostPath": "/a", "containerPath": "b"}]), r"mounts\[0\].containerPath"),
        (edited(mounts=[{"hostPath": "a", "containerPath": "/b"}]), r"mounts\[0\].hostPath"),
        (edited(hooks=[{"hookName": "never", "path": "/x"}]), "hookName: 'never'"),
        (edited(hooks=[{"hookName": "prestart", "path": "x"}]), r"hooks\[0\].path"),
        (edited(additionalGids=[-1]), r"additionalGids\[0\]: -1"),
    ],
)
def test_what_is_refused(value: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^x.json: .*{words}"):
        parsed(value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a: &x [1]\nb: *x", "aliases are not taken"),
        (b"[" * 40 + b"]" * 40, "nested deeper than 32"),
        (b"[" * 500_000, "maximum nesting depth|nested deeper"),
        (b"- " * 400_000, "nested deeper"),
        (b"kind: a\nkind: b", "a key of kind, kind is given twice"),
        (b"kind: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b"--- 1\n--- 2", "another document"),
        (b"", "Expected `object`, got `null`"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^x.yaml: .*({words})"):
        parse_cdi(data, name="x.yaml")


def test_sizes() -> None:
    for name in ("x.json", "x.yaml"):
        with pytest.raises(ResourceExhausted, match="more than the limit"):
            parse_cdi(b" " * (limits.CDI_SPEC_BYTES + 1), name=name)
    many = [{"name": f"d{n}", "containerEdits": {"env": ["A=b"]}} for n in range(limits.CDI_DEVICES + 1)]
    with pytest.raises(ResourceExhausted, match="devices: 4097, limit 4096"):
        parsed(document(devices=many))


@pytest.mark.parametrize("text", ["vendor.com/gpu=0", "v/c-1=a:b.c_d-e", "vendor.com/net.nic=eth0"])
def test_qualified_names(text: str) -> None:
    assert "=".join(split_device(text)) == text


@pytest.mark.parametrize(
    "text", ["", "gpu", "vendor.com/gpu", "vendor.com/gpu=", "/gpu=0", "v/=0", "v/c=a/b", "v/c=-a", "v/c=a=b", "1v/c=a"]
)
def test_what_is_no_qualified_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not VENDOR/CLASS=DEVICE"):
        split_device(text)


@given(st.sampled_from(["x.json", "x.yaml"]), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_parsed_or_refused(name: str, data: bytes) -> None:
    try:
        parse_cdi(data, name=name)
    except (InvalidArgument, ResourceExhausted) as error:
        assert str(error).startswith(f"{name}: ")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["env", "path", "deviceNodes", "mounts", "hooks", "name"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_VALUES, _VALUES)
def test_any_document_is_parsed_or_refused(edits: Any, devices: Any) -> None:
    for value in (document(containerEdits=edits), document(devices=devices)):
        try:
            parsed(value)
        except (InvalidArgument, ResourceExhausted) as error:
            assert str(error).startswith("x.json: ")
