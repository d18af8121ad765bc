"""ORLOP_NATIVE=asan: the tests here use the extension module built with ASan and UBSan (scripts/test-sanitized preloads libasan)."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.kernel.executor.harness import OUT, VARIANT

NAME = "orlop.kernel._unpack"


def load_sanitized() -> None:
    """Put the sanitized extension in the place of the shipped one, before anything imports it."""
    if "libasan" not in Path("/proc/self/maps").read_text():
        raise pytest.UsageError(
            "ORLOP_NATIVE=asan: the extension module needs libasan preloaded, see scripts/test-sanitized"
        )
    path = OUT / f"_unpack{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location(NAME, path)
    if NAME in sys.modules or spec is None or spec.loader is None:
        raise pytest.UsageError(f"ORLOP_NATIVE=asan: {path} cannot take the place of {NAME}")
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])


if VARIANT == "asan":
    load_sanitized()
