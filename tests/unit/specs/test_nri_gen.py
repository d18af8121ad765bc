"""The committed protobuf classes of NRI and ttrpc are those of the committed .proto files."""

import subprocess
import sys
from pathlib import Path

import pytest

import orlop.specs.nri_gen as nri_gen
from orlop.specs.nri_gen import nri_pb2

HERE = Path(nri_gen.__file__).parent


def test_classes_are_made_from_the_committed_files(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    source = HERE.parent.parent.parent
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(source)]
        + [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
        + [f"orlop/specs/nri_gen/{name}.proto" for name in ("nri", "ttrpc")],
        check=True,
        cwd=source,
    )
    for made in sorted((tmp_path / "orlop/specs/nri_gen").iterdir()):
        assert made.read_text() == (HERE / made.name).read_text(), f"{made.name}: run scripts/generate-protobuf"


def test_every_service_has_its_calls():
    services = nri_pb2.DESCRIPTOR.services_by_name
    assert len(services["Plugin"].methods) == 18
    assert len(services["Runtime"].methods) == 2
