"""Named fault points: the places where a test kills or fails the daemon to prove that nothing half-made remains.

A point is declared at import time by ``fault_point = declare("sandbox.run.network")`` and passed at run time by ``reach(name)``.
In production reaching a point costs one dictionary look-up in an empty dictionary. A test arms points through the environment
variable ORLOP_FAULTS, for instance ``sandbox.run.network=kill`` or ``sandbox.run.network=fail`` or ``...=fail@2`` (second time).
``orlopd --list-fault-points`` lists the declared names. Test: tests/unit/base/test_faults.py.
"""

from __future__ import annotations

import os
import signal

from orlop.base.errors import Internal, InvalidArgument

_declared: set[str] = set()
_armed: dict[str, tuple[str, int]] = {}


def declare(*names: str) -> None:
    """Declare fault points; a name is ``noun.verb.step``. Declaring one twice is a programming error."""
    for name in names:
        if name in _declared:
            raise InvalidArgument(f"fault point {name}: declared twice")
        _declared.add(name)


def declared() -> tuple[str, ...]:
    """Return the names of all declared points, sorted."""
    return tuple(sorted(_declared))


def arm(text: str) -> None:
    """Arm points from ``name=action[@nth]`` items separated by commas; action is ``kill`` or ``fail``.

    Raises InvalidArgument for an item that does not parse. Unknown names are accepted: modules declare theirs later.
    """
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        verb, _, nth = action.partition("@")
        if verb not in ("kill", "fail") or (nth and not nth.isdigit()):
            raise InvalidArgument(f"fault point {name}: action {action!r} is not kill or fail, with an optional @N")
        _armed[name] = (verb, int(nth or "1"))


def reach(name: str) -> None:
    """Pass a fault point; if a test armed it, die by SIGKILL or raise Internal."""
    armed = _armed.get(name)
    if armed is None:
        return
    verb, countdown = armed
    if countdown > 1:
        _armed[name] = (verb, countdown - 1)
        return
    del _armed[name]
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise Internal(f"fault point {name}: armed to fail")
