"""Which container, pod or image a person means: by name, by full id, or by the beginning of an id.

Also owns the labels that mark what `orlop run` made: a pod with one container, which people see as one thing. Test: tests/unit/cli/test_find.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from orlop.base.errors import InvalidArgument, NotFound
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as pb

LABEL_CLI: Final = "io.orlop.cli"
"""``run``: this pod and its container were made by `orlop run` and are one thing to people."""
LABEL_NAME: Final = "io.orlop.name"
ANNOTATION_COMMAND: Final = "io.orlop.command"
ANNOTATION_PORTS: Final = "io.orlop.ports"
ANNOTATION_LOGS: Final = "io.orlop.logs"
ANNOTATION_REMOVE: Final = "io.orlop.remove"
NAMESPACE: Final = "orlop"


def made_by_run(labels: Any) -> bool:
    return bool(labels.get(LABEL_CLI) == "run")


def container_name(container: pb.Container) -> str:
    """Return the name that `orlop run` gave, or the container's own name within its pod."""
    return container.labels.get(LABEL_NAME) or container.metadata.name


def find_container(client: Client, word: str) -> pb.Container:
    """Return the one container that is meant. Raises NotFound, InvalidArgument (the beginning fits several)."""
    listed = client.runtime.ListContainers(pb.ListContainersRequest()).containers
    found: pb.Container = _pick("container", word, [(each.id, _names(each), each) for each in listed])
    return found


def find_sandbox(client: Client, word: str) -> pb.PodSandbox:
    listed = client.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    rows = [(each.id, (each.metadata.name, f"{each.metadata.namespace}/{each.metadata.name}"), each) for each in listed]
    found: pb.PodSandbox = _pick("pod", word, rows)
    return found


def _names(container: pb.Container) -> tuple[str, ...]:
    pod = container.labels.get("io.kubernetes.pod.name", "")
    return (container_name(container), f"{pod}/{container.metadata.name}" if pod else "")


def _pick(kind: str, word: str, rows: Iterable[tuple[str, tuple[str, ...], Any]]) -> Any:
    rows = list(rows)
    for match in (
        [row for identity, names, row in rows if identity == word],
        [row for identity, names, row in rows if word in names],
        [row for identity, names, row in rows if identity.startswith(word)],
    ):
        if len(match) == 1:
            return match[0]
        if match:
            raise InvalidArgument(
                f"{kind} {word}: fits {len(match)} {kind}s: {', '.join(each.id[:12] for each in match)}"
            )
    raise NotFound(f"{kind} {word}: there is no such {kind}")
