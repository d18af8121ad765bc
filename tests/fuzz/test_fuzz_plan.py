"""Runs the libFuzzer program of the plan decoder for a bounded time, from a corpus of real plans. ORLOP_FUZZ_SECONDS lengthens it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orlop.oci.codec import encode
from orlop.oci.ops import make_plan
from tests.kernel.executor.harness import container, standard
from tests.kernel.executor.test_exec import join
from tests.kernel.executor.test_pod import SHARED

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang with libFuzzer")


def test_plan_decoder(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-C", ROOT / "native", "../build/native/fuzz/fuzz_plan"], check=True)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index, ops in enumerate((standard("id"), container("id"), join("id"), SHARED)):
        (corpus / str(index)).write_bytes(encode(make_plan(ops)))
    seconds = os.environ.get("ORLOP_FUZZ_SECONDS", "5")
    done = subprocess.run(
        [
            ROOT / "build/native/fuzz/fuzz_plan",
            f"-max_total_time={seconds}",
            "-max_len=8192",
            f"-artifact_prefix={tmp_path}/",
            corpus,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
