"""The committed protobuf classes are those of the committed .proto files, and secrets are marked as such."""

import subprocess
import sys
from pathlib import Path

import pytest

import orlop.specs.cri_gen as cri_gen
from orlop.specs.cri_gen import api_pb2

HERE = Path(cri_gen.__file__).parent


def test_classes_are_made_from_the_committed_files(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    source = HERE.parent.parent.parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I",
            str(source),
            f"--python_out={tmp_path}",
            f"--pyi_out={tmp_path}",
        ]
        + [f"orlop/specs/cri_gen/{name}.proto" for name in ("api", "orlop")],
        check=True,
        cwd=source,
    )
    for made in sorted((tmp_path / "orlop/specs/cri_gen").iterdir()):
        assert made.read_text() == (HERE / made.name).read_text(), f"{made.name}: run scripts/generate-protobuf"


def test_every_service_has_its_calls():
    services = api_pb2.DESCRIPTOR.services_by_name
    assert len(services["RuntimeService"].methods) == 37
    assert len(services["ImageService"].methods) == 6


def test_environment_values_are_bytes():
    value = api_pb2.KeyValue(key="K", value=b"\xff\x00")
    assert api_pb2.KeyValue.FromString(value.SerializeToString()).value == b"\xff\x00"


def test_credentials_are_marked_as_secret():
    for name in ("username", "password", "auth", "identity_token", "registry_token"):
        assert api_pb2.AuthConfig.DESCRIPTOR.fields_by_name[name].GetOptions().debug_redact
