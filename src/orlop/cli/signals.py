"""Signals as people name them: TERM, SIGTERM, 15, RTMIN+3; and as CRI numbers them. Test: tests/unit/cli/test_signals.py."""

from __future__ import annotations

import re
import signal
from typing import Any

from orlop.base.errors import InvalidArgument
from orlop.specs.cri_gen import api_pb2 as pb

RTMIN, RTMAX = 34, 64


def signal_number(text: str, option: str) -> int:
    """Return the Linux number of a signal. Raises InvalidArgument."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 0 < int(name) <= RTMAX:
        return int(name)
    match = re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?", name)
    if match is not None:
        offset = int(match[3] or 0) * (-1 if match[2] == "-" else 1)
        number = (RTMIN if match[1] == "MIN" else RTMAX) + offset
        if RTMIN <= number <= RTMAX:
            return number
    elif f"SIG{name}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{name}"])
    raise InvalidArgument(f"{option}: {text!r} is not a signal")


def cri_signal(number: int) -> Any:
    """Return the number of CRI's own enum for a Linux number. Raises InvalidArgument for 32 and 33, which CRI has no names for."""
    if RTMIN <= number <= RTMAX:
        low, high = number - RTMIN, RTMAX - number
        name = f"SIGRTMINPLUS{low}" if low <= 15 else f"SIGRTMAXMINUS{high}"
        name = {"SIGRTMINPLUS0": "SIGRTMIN", "SIGRTMAXMINUS0": "SIGRTMAX"}.get(name, name)
    elif number in signal.valid_signals() and number < 32:
        name = signal.Signals(number).name
    else:
        raise InvalidArgument(f"signal {number}: CRI has no name for it")
    return pb.Signal.Value(f"SIGNAL_{name}")
