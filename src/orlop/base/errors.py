"""The exception tree: a class says what the caller can do, the message says which object, which field, which reason.

    OrlopError
    ├── InvalidArgument       the request itself is wrong; do not retry unchanged
    ├── NotFound              the named object does not exist
    ├── AlreadyExists         the name is taken by another object
    ├── FailedPrecondition    the object exists, in a state that forbids the call
    ├── ResourceExhausted     a limit (ours or the kernel's) is reached
    ├── PermissionDenied      policy or credentials refuse
    ├── Unauthenticated       a registry asks for (other) credentials
    ├── Unavailable           try again later: daemon recovering, registry down, monitor gone
    ├── DeadlineExceeded      the caller's time is over; what was begun has been undone
    ├── Aborted               lost a race; retry is sensible
    ├── DataLoss              bytes are not what their digest says
    ├── Unimplemented         not built
    └── Internal              a kernel call or a helper failed in a way that the caller cannot fix

Each class carries the name of its gRPC code, so cri/ maps without a table of cases. Messages are lower case, object and
id first, no period: ``container 4f2a: cannot mount /data: permission denied``. Test: tests/unit/base/test_errors.py.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager


class OrlopError(Exception):
    """Base of all errors that may reach a user. ``code`` is the name of a gRPC status code."""

    code = "UNKNOWN"

    def diagnostics(self) -> str:
        """Return the message with the chain of causes, one a line, for people (not for the wire)."""
        lines = [str(self)]
        cause = self.__cause__
        while cause is not None:
            lines.append(f"  caused by {type(cause).__name__}: {cause}")
            cause = cause.__cause__
        return "\n".join(lines)


class InvalidArgument(OrlopError):
    code = "INVALID_ARGUMENT"


class NotFound(OrlopError):
    code = "NOT_FOUND"


class AlreadyExists(OrlopError):
    code = "ALREADY_EXISTS"


class FailedPrecondition(OrlopError):
    code = "FAILED_PRECONDITION"


class ResourceExhausted(OrlopError):
    code = "RESOURCE_EXHAUSTED"


class PermissionDenied(OrlopError):
    code = "PERMISSION_DENIED"


class Unauthenticated(OrlopError):
    code = "UNAUTHENTICATED"


class Unavailable(OrlopError):
    code = "UNAVAILABLE"


class DeadlineExceeded(OrlopError):
    code = "DEADLINE_EXCEEDED"


class Aborted(OrlopError):
    code = "ABORTED"


class DataLoss(OrlopError):
    code = "DATA_LOSS"


class Unimplemented(OrlopError):
    code = "UNIMPLEMENTED"


class Internal(OrlopError):
    code = "INTERNAL"


class named(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """Lets every OrlopError that leaves the body begin with the object as its caller knows it.

    A part knows fields, ids or sockets; only the use case knows that this is ``container web``. What stands in ``instead_of`` at the
    beginning is replaced: an id that the caller has never been told.
    """

    def __init__(self, subject: str, *instead_of: str) -> None:
        self.subject = subject
        self.instead_of = instead_of

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OrlopError):
            return
        text = str(error)
        for other in self.instead_of:
            text = text.removeprefix(f"{other}: ")
        if not text.startswith(f"{self.subject}: "):
            text = f"{self.subject}: {text}"
        error.args = (text,)

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)
