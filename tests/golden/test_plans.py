"""Plans against their kept text. After a deliberate change: ``ORLOP_GOLDEN=write pytest tests/golden``, then read the difference."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orlop.oci.codec import decode, encode
from orlop.oci.plan_text import plan_text
from tests.golden.cases import CASES

PLANS = Path(__file__).parent / "plans"
PLANCHECK = Path(__file__).resolve().parents[2] / "build/native/plancheck"
"""Made by ``make native``."""


@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_kept(name: str) -> None:
    plan = CASES[name]()
    text = plan_text(plan)
    kept = PLANS / f"{name}.txt"
    if os.environ.get("ORLOP_GOLDEN") == "write":
        kept.write_text(text)
    assert text == kept.read_text()
    assert decode(encode(plan), plan.fds) == plan


@pytest.mark.parametrize("name", CASES)
def test_the_native_decoder_reads_the_same_ops(name: str) -> None:
    plan = CASES[name]()
    done = subprocess.run([PLANCHECK], input=encode(plan), capture_output=True, check=False)
    assert done.stdout.decode().split() == [op.opname for op in plan.ops]
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_kept_plan_is_without_its_case() -> None:
    assert {path.stem for path in PLANS.iterdir()} == set(CASES)


def test_no_secret_is_in_the_text() -> None:
    text = plan_text(CASES["default_v2"]())
    assert "secret" not in text
    assert "TOKEN" in text
    assert "TOKEN=secret" in plan_text(CASES["default_v2"](), show_values=True)
