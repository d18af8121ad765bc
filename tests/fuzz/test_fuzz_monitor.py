"""Runs the libFuzzer programs of the monitor for a bounded time: its requests, its log writer. ORLOP_FUZZ_SECONDS lengthens it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orlop.monitor import protocol

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang with libFuzzer")


def fuzz(name: str, tmp_path: Path, *options: str) -> None:
    subprocess.run(["make", "-s", "-C", ROOT / "native", f"../build/native/fuzz/{name}"], check=True)
    seconds = os.environ.get("ORLOP_FUZZ_SECONDS", "5")
    command = [
        ROOT / "build/native/fuzz" / name,
        f"-max_total_time={seconds}",
        f"-artifact_prefix={tmp_path}/",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_requests(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    values = {"U32": 1, "U64": 1 << 40, "STR": "id", "FD": 3, "U32S": (3, 4, 5)}
    for kind in protocol.MESSAGES:
        if kind.direction == "REQ":
            message = kind(**{name: values[wire] for wire, name in protocol.wire_fields(kind)})
            data, fds = protocol.encode(message, 1)
            (corpus / kind.msgname).write_bytes(bytes([len(fds)]) + data)
    fuzz("fuzz_monitor_protocol", tmp_path, "-max_len=2048", str(corpus))


def test_log_lines(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "lines").write_bytes(b"\4\0" + b"\0\4one\n" + b"\1\6par\ntw" + b"\1\2o\n" + b"\x0e\0" + b"\0\1x")
    fuzz("fuzz_crilog", tmp_path, "-max_len=4096", str(corpus))
