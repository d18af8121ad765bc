"""A benchmark's result as a table for people and as JSON: percentiles, ratios, goals, and the conditions that they hold under."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Of these, more is better; of everything else, less.
RATES = ("cycles/s", "MB/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What issue 3 asks on the reference host: a bound, and a ratio to containerd + runc. Either may be absent."""

    row: str
    bound: float | None = None
    ratio: float | None = None


GOALS = (
    Goal(row="pod start total", bound=10, ratio=12),
    Goal(row="ExecSync", bound=4, ratio=12),
    Goal(row="pod stop total", bound=12, ratio=15),
    Goal(row="cycles/s, 8 parallel", bound=40, ratio=9),
    Goal(row="PSS a pod (kB)", bound=300, ratio=10),
    Goal(row="daemon PSS, 100 pods (MB)", bound=80),
    Goal(row="ready after kill -9, 100 pods (ms)", bound=500),
    Goal(row="pull 2048 MB (s)", ratio=3),
    Goal(row="ListContainers, 100 pods", ratio=1),
    Goal(row="ListContainers, 100 pods: CPU", ratio=1),
    Goal(row="ListContainerStats, 100 pods", ratio=1),
    Goal(row="ListContainerStats, 100 pods: CPU", ratio=1),
    Goal(row="exec session", ratio=8),
    Goal(row="MB/s, exec stdin to stdout", ratio=1),
    Goal(row="MB/s, port-forward there and back", ratio=1),
    Goal(row="kubelet's polling, 100 pods (% of one CPU)", bound=2, ratio=1),
)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def times_better(row: str, ours: list[float], theirs: list[float]) -> float:
    """How many times better ours is than theirs, at the median."""
    a, b = percentile(ours, 0.5), percentile(theirs, 0.5)
    if row.startswith(RATES):
        a, b = b, a
    return b / a if a else float("inf")


def version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ((done.stdout or done.stderr).strip().splitlines() or ["?"])[0]


def conditions() -> dict[str, Any]:
    memory = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": version("git", "describe", "--always", "--dirty"),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "memory_mb": int(memory) >> 10,
        "load_before": os.getloadavg(),
        "cgroup": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "containerd": version("containerd", "--version"),
        "runc": version("runc", "--version"),
        "crun": version("crun", "--version"),
        "python": platform.python_version(),
    }


def show(results: dict[str, dict[str, list[float]]]) -> None:
    names = list(results)
    base = "orlop" if "orlop" in results else names[0]
    rows = list(dict.fromkeys(row for samples in results.values() for row in samples))
    table = Table(title="p50 / p95 (milliseconds where nothing else is said)")
    table.add_column("row")
    for name in names:
        table.add_column(name, justify="right")
    for peer in (name for name in names if name != base):
        table.add_column(f"{base} is better than {peer}", justify="right")
    for row in rows:
        cells = [row]
        for name in names:
            values = results[name].get(row)
            cells.append(f"{percentile(values, 0.5):.2f} / {percentile(values, 0.95):.2f}" if values else "-")
        for peer in (name for name in names if name != base):
            ours, theirs = results[base].get(row), results[peer].get(row)
            cells.append(f"{times_better(row, ours, theirs):.1f}x" if ours and theirs else "-")
        table.add_row(*cells)
    console = Console(width=max(Console().width, 150))
    console.print(table)
    for line in judged(results, base):
        console.print(line)


def judged(results: dict[str, dict[str, list[float]]], base: str) -> list[str]:
    """A line for each goal whose row was measured."""
    lines: list[str] = []
    if not base.startswith("orlop"):
        return lines
    for goal in GOALS:
        ours = results[base].get(goal.row)
        if not ours:
            continue
        value = percentile(ours, 0.5)
        if goal.bound is not None:
            met = value >= goal.bound if goal.row.startswith(RATES) else value <= goal.bound
            lines.append(f"{'met   ' if met else 'MISSED'} {goal.row}: {value:.2f}, goal {goal.bound:g}")
        theirs = results.get("containerd+runc", {}).get(goal.row)
        if goal.ratio is not None and theirs:
            ratio = times_better(goal.row, ours, theirs)
            met = ratio >= goal.ratio
            lines.append(f"{'met   ' if met else 'MISSED'} {goal.row}: {ratio:.1f}x, goal {goal.ratio:g}x")
    return lines


def write(directory: Path, results: dict[str, dict[str, list[float]]], facts: dict[str, Any]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{facts['taken'].replace(':', '')}.json"
    path.write_text(json.dumps({"conditions": facts, "samples": results}, indent=1))
    return path
