"""config.json: parsed, written, and refused with the name of what is wrong."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument
from orlop.base.limits import RUNTIME_SPEC_BYTES
from orlop.specs.runtime import (
    CPU,
    Linux,
    Memory,
    Namespace,
    Process,
    Resources,
    Root,
    RuntimeSpec,
    Seccomp,
    dump,
    load,
    parse,
    parse_process,
    to_json,
)

# Characters and bytes around those that stand for bytes in the stored form.
MARKS = [chr(code).encode() for code in (0x10FF7F, 0x10FF80, 0x10FFBF, 0x10FFC0, 0x10FFFF)] + [b"\xf4\x8f\xbe", b"\x80"]

WHOLE = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 6]},
        "args": ["sh"],
        "env": ["A=b"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 18446744073709551615, "hard": 18446744073709551615}],
        "noNewPrivileges": True,
        "oomScoreAdj": -5,
        "scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], "runtime": 1},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        "execCPUAffinity": {"initial": "0"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {
            "destination": "/x",
            "type": "bind",
            "source": "/y",
            "options": ["rbind", "rro"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 5}],
        }
    ],
    "linux": {
        "sysctl": {"net.core.somaxconn": "256"},
        "resources": {
            "memory": {"limit": 1, "disableOOMKiller": True, "kernelTCP": 3},
            "cpu": {"shares": 5, "cpus": "0-1"},
            "blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 9}]},
            "network": {"classID": 7},
            "unified": {"memory.high": "5"},
        },
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net"}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {
                    "names": ["x"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        "intelRdt": {"closID": "c", "l3CacheSchema": "L3:0=f"},
        "timeOffsets": {"monotonic": {"secs": 5}},
        "netDevices": {"eth0": {"name": "eth1"}},
        "memoryPolicy": {"mode": "MPOL_DEFAULT"},
    },
}


def test_every_property_survives_a_round_trip() -> None:
    spec = parse(json.dumps(WHOLE).encode())
    written = json.loads(to_json(spec))
    expected = json.loads(json.dumps(WHOLE))
    # A default is not written.
    del expected["mounts"][0]["uidMappings"][0]["containerID"]
    del expected["linux"]["seccomp"]["syscalls"][0]["args"][0]["index"]
    written["linux"]["seccomp"]["syscalls"][0]["args"][0].pop("index", None)
    assert written == expected
    assert parse(to_json(spec)) == spec


def test_unknown_properties_are_ignored() -> None:
    spec = parse(b'{"ociVersion":"1.9.0","future":{"a":[1]},"linux":{"namespaces":[{"type":"pid","new":1}],"later":2}}')
    assert spec.linux is not None
    assert spec.linux.namespaces == (Namespace(type="pid"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{}", r"config.json: object missing required field `ociVersion`"),
        (b'{"ociVersion":"1.2.0","process":{"cwd":1}}', r"config.json: process.cwd: expected `str`, got `int`"),
        (
            b'{"ociVersion":"1.2.0","process":{"cwd":"/","user":{"uid":4294967296}}}',
            r"process.user.uid: expected `int` <=",
        ),
        (b'{"ociVersion":"1.2.0","process":{"cwd":"/","user":{"uid":-1}}}', r"process.user.uid: expected `int` >="),
        (b'{"ociVersion":"1.2.0","mounts":[{"destination":"/a"},{}]}', r"mounts\[.*\]: object missing required field"),
        (b'{"ociVersion":"1.2.0"', "truncated"),
        (b'{"ociVersion":"\xff"}', "config.json: "),
        (b"[" * 100_000, "config.json: "),
    ],
)
def test_errors_name_the_property(text: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse(text)


def test_the_document_has_a_limit() -> None:
    with pytest.raises(InvalidArgument, match="limit"):
        parse(b" " * (RUNTIME_SPEC_BYTES + 1))
    with pytest.raises(InvalidArgument, match="limit"):
        parse_process(b" " * (RUNTIME_SPEC_BYTES + 1))


def test_a_process_alone() -> None:
    assert parse_process(b'{"cwd":"/","args":["ls"]}') == Process(cwd="/", args=("ls",))
    with pytest.raises(InvalidArgument, match="process: object missing required field `cwd`"):
        parse_process(b"{}")


def test_bytes_that_json_cannot_carry() -> None:
    value = b"A=\xff".decode("utf-8", "surrogateescape")
    spec = RuntimeSpec(oci_version="1.3.0", process=Process(cwd="/", env=(value,)))
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        to_json(spec)
    assert json.loads(to_json(spec, lossy=True))["process"]["env"] == ["A=\ufffd"]


@given(st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(MARKS)), max_size=4))
def test_the_stored_form_keeps_every_byte(values: list[bytes]) -> None:
    texts = tuple(value.replace(b"\0", b"").decode("utf-8", "surrogateescape") for value in values)
    spec = RuntimeSpec(oci_version="1.3.0", process=Process(cwd="/", args=texts, env=texts))
    data = dump(spec)
    assert load(data) == spec
    # Plain JSON: a row of the store holds it unread.
    assert msgspec.json.decode(b'{"spec":' + data + b"}", type=dict[str, msgspec.Raw])


def test_the_stored_form_of_ordinary_text_is_the_document() -> None:
    spec = RuntimeSpec(oci_version="1.3.0", process=Process(cwd="/", env=("A=\u00fc\U0001f600",)))
    assert dump(spec) == to_json(spec)


def test_defaults_are_absent() -> None:
    spec = RuntimeSpec(
        oci_version="1.3.0",
        root=Root(path="/r"),
        linux=Linux(
            resources=Resources(cpu=CPU(shares=2), memory=Memory()), seccomp=Seccomp(default_action="SCMP_ACT_ALLOW")
        ),
    )
    assert json.loads(to_json(spec)) == {
        "ociVersion": "1.3.0",
        "root": {"path": "/r"},
        "linux": {
            "resources": {"cpu": {"shares": 2}, "memory": {}},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        },
    }
