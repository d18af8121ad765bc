"""orlop doctor: what this host can and cannot do, why, and what that means; then whether a daemon answers. Test: tests/unit/cli/test_main.py.

The host is looked at from here, with the rights of whoever asks; nothing on it is changed. Exits 1 when containers cannot be run.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from orlop.base.errors import OrlopError

COLOURS: Final = {"ok": "32", "limited": "33", "broken": "31"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="text", choices=["text", "json"], help="text (default) or json")
    parser.add_argument("--all", action="store_true", help="also say what was seen of everything that is well")
    parser.add_argument(
        "--scratch",
        default="/var/lib/orlop",
        metavar="DIR",
        help="whose file system overlay is tried on (default /var/lib/orlop)",
    )


def run(options: argparse.Namespace) -> int:
    import msgspec

    from orlop.kernel.probe import Probe
    from orlop.services.doctor import examine

    report = msgspec.to_builtins(examine(Probe(_existing(options.scratch))))
    report["daemon"] = daemon_findings(options.address)
    if options.format == "json":
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print_report(report, everything=options.all)
    return 1 if report["verdict"] == "broken" else 0


def _existing(path: str) -> str | None:
    """Return the nearest directory that is there: before the first start there is no root directory yet."""
    from pathlib import Path

    directory = Path(path).absolute()
    while not directory.is_dir():
        directory = directory.parent
    return str(directory)


def daemon_findings(address: str) -> list[dict[str, str]]:
    """Return whether a daemon answers, and its conditions."""
    from orlop.cli.client import Client
    from orlop.specs.cri_gen import api_pb2 as pb

    try:
        with Client(address) as client:
            status = client.runtime.Status(pb.StatusRequest(verbose=True))
    except OrlopError as error:
        return [{"name": "daemon", "verdict": "broken", "reason": str(error), "meaning": "start orlopd"}]
    found = [{"name": "daemon", "verdict": "ok", "reason": f"answers at {address}", "meaning": ""}]
    for each in status.status.conditions:
        verdict = "ok" if each.status else "broken"
        found.append({"name": each.type, "verdict": verdict, "reason": each.reason, "meaning": each.message})
    return found + handler_findings(json.loads(status.info.get("handlers", "{}")))


def handler_findings(handlers: dict[str, Any]) -> list[dict[str, str]]:
    """Return which runtime handlers can be used, from what the daemon says of them."""
    found = []
    for name, facts in handlers.items():
        missing = facts.get("unavailable", "")
        seen = " ".join(str(facts[key]) for key in ("path", "version") if facts.get(key))
        found.append(
            {
                "name": f"handler {name}",
                "verdict": "limited" if missing else "ok",
                "reason": missing or seen,
                "meaning": "pods that ask for it are refused; install its program or correct runtime.handlers"
                if missing
                else "",
            }
        )
    return found


def print_report(report: dict[str, Any], *, everything: bool) -> None:
    colour = sys.stdout.isatty()
    print(f"kernel {report['kernel']}: {_painted(report['verdict'], colour=colour)}")
    for each in [*report["findings"], *report["daemon"]]:
        well = each["verdict"] == "ok"
        reason = f"  {each['reason']}" if each["reason"] and (everything or not well) else ""
        print(f"  {_painted(each['verdict'], colour=colour)} {each['name']}{reason}")
        if each["meaning"] and not well:
            print(f"          {each['meaning']}")


def _painted(verdict: str, *, colour: bool) -> str:
    text = f"{verdict:<7}"
    return f"\x1b[{COLOURS[verdict]}m{text}\x1b[0m" if colour else text
