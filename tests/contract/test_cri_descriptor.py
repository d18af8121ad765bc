"""Our .proto against the published Go module k8s.io/cri-api: same calls, messages, field numbers, types, enum numbers."""

from __future__ import annotations

import subprocess

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from orlop.specs.cri_gen import api_pb2
from tests.tools.build import tool

# What ours has and the pinned module has not, and the reverse: both empty means that they are the same document.
OURS_ONLY: frozenset[str] = frozenset()
THEIRS_ONLY: frozenset[str] = frozenset()

SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def local(name: str) -> str:
    return name.removeprefix("runtime.v1.")


def lines_of_enum(enum: EnumDescriptor) -> list[str]:
    return [f"enum {local(enum.full_name)} {value.number} {value.name}" for value in enum.values]


def lines_of_message(message: Descriptor) -> list[str]:
    name = local(message.full_name)
    lines = [f"message {name}"]
    for field in message.fields:
        kind = SCALARS[field.type]
        if field.message_type:
            kind = local(field.message_type.full_name)
        elif field.enum_type:
            kind = local(field.enum_type.full_name)
        cardinality = "repeated" if field.is_repeated else "optional"
        lines.append(f"field {name} {field.number} {field.name} {cardinality} {kind}")
    for enum in message.enum_types:
        lines += lines_of_enum(enum)
    for nested in message.nested_types:
        lines += lines_of_message(nested)
    return lines


def ours() -> set[str]:
    lines: list[str] = []
    for message in api_pb2.DESCRIPTOR.message_types_by_name.values():
        lines += lines_of_message(message)
    for enum in api_pb2.DESCRIPTOR.enum_types_by_name.values():
        lines += lines_of_enum(enum)
    for service in api_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            output = ("stream " if method.server_streaming else "") + local(method.output_type.full_name)
            lines.append(f"call {service.name} {method.name} {local(method.input_type.full_name)} {output}")
    return set(lines)


@pytest.fixture(scope="module")
def theirs() -> set[str]:
    return set(subprocess.run([tool("cri-descriptor")], capture_output=True, text=True, check=True).stdout.splitlines())


def test_nothing_published_is_missing_or_different(theirs):
    assert sorted(theirs - ours() - THEIRS_ONLY) == []


def test_nothing_is_ours_alone(theirs):
    assert sorted(ours() - theirs - OURS_ONLY) == []


def test_the_lists_of_differences_are_up_to_date(theirs):
    assert not OURS_ONLY - (ours() - theirs)
    assert not THEIRS_ONLY - (theirs - ours())
