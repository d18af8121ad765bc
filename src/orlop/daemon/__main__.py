"""orlopd's command line: flags, configuration, logging, then daemon.lifecycle. Test: tests/unit/daemon/test_main.py."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import pkgutil
import sys
from pathlib import Path

from orlop import __version__
from orlop.base import faults
from orlop.base.errors import OrlopError
from orlop.daemon.config import LOG_LEVELS, Flags, check, load
from orlop.daemon.logs import start_logging

EXIT_FAILURE = 1
EXIT_CONFIG = 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="orlopd", description="orlop's daemon: serves CRI v1 on a unix socket")
    made.add_argument("--config", type=Path, metavar="FILE", help="configuration (default /etc/orlop/config.toml)")
    made.add_argument("--root", type=Path, metavar="DIR", help="images and layers (default /var/lib/orlop)")
    made.add_argument("--state", type=Path, metavar="DIR", help="pods and containers, on tmpfs (default /run/orlop)")
    made.add_argument("--listen", metavar="unix:///PATH", help="socket (default unix:///run/orlop/orlop.sock)")
    made.add_argument("--log-level", choices=LOG_LEVELS, help="default info")
    made.add_argument(
        "--check-config", action="store_true", help="say what is wrong in the configuration, then exit (0 or 2)"
    )
    made.add_argument(
        "--list-fault-points", action="store_true", help="print the places where tests make the daemon fail"
    )
    made.add_argument("--version", action="version", version=f"orlopd {__version__}")
    return made


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    if given.list_fault_points:
        return list_fault_points()
    flags = Flags(
        config=given.config and given.config.absolute(),
        root=given.root and given.root.absolute(),
        state=given.state and given.state.absolute(),
        listen=given.listen,
        log_level=given.log_level,
    )
    if given.check_config:
        return check_config(flags)
    try:
        config = load(flags)
    except OrlopError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    start_logging(config.log.level, config.log.format)
    try:
        faults.arm(os.environ.get("ORLOP_FAULTS", ""))
        # Imported late: --check-config and --help need none of the parts.
        from orlop.daemon import lifecycle

        asyncio.run(lifecycle.run(config))
    except OrlopError as error:
        logging.getLogger("orlop.daemon").critical("cannot run: %s", error.diagnostics())
        return EXIT_FAILURE
    except OSError as error:
        logging.getLogger("orlop.daemon").critical("cannot run: %s", error)
        return EXIT_FAILURE
    return 0


def check_config(flags: Flags) -> int:
    """Print every problem as FILE:LINE: KEY: REASON; return 2 when there is one."""
    problems = check(flags)
    for problem in problems:
        print(problem, file=sys.stderr)
    return EXIT_CONFIG if problems else 0


def list_fault_points() -> int:
    """Import every module, because points are declared at import, and print the names one a line."""
    import orlop

    for module in pkgutil.walk_packages(orlop.__path__, "orlop."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in faults.declared():
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
