"""The calls of NRI's Plugin service that follow an event: name, subscription, message types. Test: tests/unit/nri/test_plugins.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from orlop.specs.nri_gen import nri_pb2 as nri

PLUGIN_SERVICE: Final = "nri.pkg.api.v1alpha1.Plugin"
RUNTIME_SERVICE: Final = "nri.pkg.api.v1alpha1.Runtime"
VERSION: Final = "v0.12.5"
"""Of the published interface that specs/nri_gen/nri.proto is."""
ALL_EVENTS: Final = (1 << (int(nri.LAST) - 1)) - 1


@dataclass(frozen=True, slots=True)
class Call:
    """One call that plugins subscribe to."""

    method: str
    event: int
    answer: type[Any]
    legacy: bool = False
    """Plugins from before 0.12 hear of it through StateChange."""

    @property
    def bit(self) -> int:
        return 1 << (self.event - 1)


def _answer(method: str) -> type[Message]:
    found: type[Message] = getattr(nri, f"{method}Response")
    return found


RUN_POD: Final = Call("RunPodSandbox", nri.RUN_POD_SANDBOX, _answer("RunPodSandbox"), legacy=True)
UPDATE_POD: Final = Call("UpdatePodSandbox", nri.UPDATE_POD_SANDBOX, _answer("UpdatePodSandbox"))
POST_UPDATE_POD: Final = Call(
    "PostUpdatePodSandbox", nri.POST_UPDATE_POD_SANDBOX, _answer("PostUpdatePodSandbox"), legacy=True
)
STOP_POD: Final = Call("StopPodSandbox", nri.STOP_POD_SANDBOX, _answer("StopPodSandbox"), legacy=True)
REMOVE_POD: Final = Call("RemovePodSandbox", nri.REMOVE_POD_SANDBOX, _answer("RemovePodSandbox"), legacy=True)
CREATE: Final = Call("CreateContainer", nri.CREATE_CONTAINER, _answer("CreateContainer"))
POST_CREATE: Final = Call("PostCreateContainer", nri.POST_CREATE_CONTAINER, _answer("PostCreateContainer"), legacy=True)
START: Final = Call("StartContainer", nri.START_CONTAINER, _answer("StartContainer"), legacy=True)
POST_START: Final = Call("PostStartContainer", nri.POST_START_CONTAINER, _answer("PostStartContainer"), legacy=True)
UPDATE: Final = Call("UpdateContainer", nri.UPDATE_CONTAINER, _answer("UpdateContainer"))
POST_UPDATE: Final = Call("PostUpdateContainer", nri.POST_UPDATE_CONTAINER, _answer("PostUpdateContainer"), legacy=True)
STOP: Final = Call("StopContainer", nri.STOP_CONTAINER, _answer("StopContainer"))
REMOVE: Final = Call("RemoveContainer", nri.REMOVE_CONTAINER, _answer("RemoveContainer"), legacy=True)
VALIDATE: Final = Call(
    "ValidateContainerAdjustment", nri.VALIDATE_CONTAINER_ADJUSTMENT, _answer("ValidateContainerAdjustment")
)
EVENTS: Final = (
    RUN_POD,
    UPDATE_POD,
    POST_UPDATE_POD,
    STOP_POD,
    REMOVE_POD,
    CREATE,
    POST_CREATE,
    START,
    POST_START,
    UPDATE,
    POST_UPDATE,
    STOP,
    REMOVE,
    VALIDATE,
)
