"""What holds for every test: who may skip in CI, and what needs root.

With CI=true a skip is a failure, unless tests/allowed-skips.txt has a line for it: on a machine that CI prepared, "not installed"
means that the preparation is broken.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
ALLOWED = Path(__file__).parent / "allowed-skips.txt"

# How long an example takes to make or to run says more about the machine's load than about the code; pytest's own timeout bounds
# the whole.
hypothesis.settings.register_profile("orlop", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("orlop")

# grpc's own fork handlers have nothing to protect here: tests start programs, they do not fork Python.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def allowed_skips() -> list[tuple[str, re.Pattern[str]]]:
    """Lines of ``node-id-glob : regex of the reason``; # begins a comment."""
    found = []
    for line in ALLOWED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            glob, separator, reason = line.partition(" : ")
            if not separator:
                raise pytest.UsageError(f"{ALLOWED.name}: {line!r} is not 'node-id-glob : reason-regex'")
            found.append((glob.strip(), re.compile(reason.strip())))
    return found


def judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that is not allowed into a failure."""
    if not CI or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not any(fnmatch.fnmatch(report.nodeid, glob) and pattern.search(reason) for glob, pattern in allowed_skips()):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, and not on tests/{ALLOWED.name}: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    judge(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("kernel") or item.get_closest_marker("cri"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
