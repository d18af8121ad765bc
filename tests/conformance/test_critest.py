"""critest, the conformance suite of the CRI, against orlopd: all of it but what critest-skips.toml names with a reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cri.daemons import Daemon
from tests.tools.build import tool

pytestmark = pytest.mark.cri
SKIPS = Path(__file__).parent / "critest-skips.toml"
SUITE_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    name: str
    state: str
    seconds: float
    message: str


def specs_of(report: Path) -> list[Spec]:
    """Every spec of a ginkgo JSON report that is a validation (benchmarks are not)."""
    found = []
    for each in json.loads(report.read_text())[0]["SpecReports"]:
        if each["LeafNodeType"] != "It":
            continue
        name = " ".join([*(each["ContainerHierarchyTexts"] or []), each["LeafNodeText"]])
        if "benchmark" not in name:
            message = each.get("Failure", {}).get("Message", "")
            found.append(Spec(name=name, state=each["State"], seconds=each["RunTime"] / 1e9, message=message))
    return found


def run_critest(daemon: Daemon, directory: Path, *more: str) -> list[Spec]:
    report = directory / "critest.json"
    command = [tool("critest"), "-runtime-endpoint", daemon.address, f"-ginkgo.json-report={report}"]
    command += ["-ginkgo.no-color", "-config", "/nonexistent", *more]
    # Where it is missing, the specs of NRI skip themselves, which the list above does not allow.
    if (socket := daemon.state / "nri.sock").exists():
        command += ["-nri-socket", str(socket)]
    log = directory / "critest.log"
    with open(log, "wb") as output:
        # It finds ginkgo, which runs it in parallel, on the PATH.
        path = f"{Path(command[0]).parent}:{os.environ['PATH']}"
        subprocess.run(
            command,
            stdout=output,
            stderr=output,
            timeout=SUITE_SECONDS,
            cwd=directory,
            check=False,
            env={**os.environ, "PATH": path},
        )
    if not report.exists():
        raise AssertionError(f"critest made no report:\n{log.read_text(errors='replace')[-4000:]}")
    return specs_of(report)


def expect_all(daemon: Daemon, directory: Path, lists: dict[str, list[dict[str, str]]], *more: str) -> str:
    """Run the suite; every spec that ``lists`` does not name must pass, and every name must be one. Returns the figures."""
    excluded = [each["spec"] for each in lists.get("excluded", [])]
    skips_itself = [each["spec"] for each in lists.get("skips_itself", [])]
    specs = run_critest(daemon, directory, *(f"-ginkgo.skip={each}" for each in excluded), *more)

    assert len(specs) > 100, "critest ran hardly anything"
    for pattern in excluded + skips_itself:
        assert any(re.search(pattern, each.name) for each in specs), f"{SKIPS.name}: {pattern!r} matches no spec"
    wrong = []
    for each in specs:
        allowed = any(re.search(pattern, each.name) for pattern in excluded + skips_itself)
        if each.state != "passed" and not (each.state == "skipped" and allowed):
            wrong.append(f"{each.state}: {each.name}\n    {each.message.strip()[:600]}")
    passed = sum(each.state == "passed" for each in specs)
    figures = f"{passed} of {len(specs)} passed, {sum(each.seconds for each in specs):.0f} s"
    print(f"critest: {figures}")
    assert not wrong, f"{len(wrong)} specs of {len(specs)}:\n" + "\n".join(wrong)
    return figures


@pytest.mark.timeout(SUITE_SECONDS + 60)
def test_every_demanded_spec_passes(orlopd, tmp_path, record_property):
    record_property("critest", expect_all(orlopd, tmp_path, tomllib.loads(SKIPS.read_text())))
