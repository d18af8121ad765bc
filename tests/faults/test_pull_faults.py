"""The daemon's death at every step of a pull: the next start finds nothing half made, and the next pull succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.base import faults
from orlop.services.images import pull, remove
from tests.images.build import Layer, image, push
from tests.images.registry import Registry

pytestmark = pytest.mark.kernel

POINTS = [name for name in faults.declared() if name.startswith("image.")]

PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path
from orlop.base import faults
from orlop.base.paths import RootPaths
from orlop.base.supervise import Supervisor
from orlop.services.images.list import list_images
from orlop.services.images.parts import close_image_parts, open_image_parts
from orlop.services.images.pull import pull_image
from orlop.services.images.recover import recover_images
from orlop.services.images.remove import remove_image

async def main():
    supervisor = Supervisor("images")
    parts = open_image_parts(
        RootPaths(root=Path(sys.argv[1])), registry_config_path=None, supervisor=supervisor, layers_in_use=set
    )
    await recover_images(parts)
    parts.trash.drain()
    paths = parts.paths
    print(json.dumps({
        "images": [list(r.repo_tags) for r in await list_images(parts)],
        "layers": len(os.listdir(paths.layers)), "chains": len(os.listdir(paths.chains)),
        "staging": len(os.listdir(paths.staging)), "trash": len(os.listdir(paths.trash)),
        "blobs": len(parts.store.digests()),
    }), flush=True)
    faults.arm(os.environ.get("ORLOP_FAULTS", ""))
    try:
        if "pull" in sys.argv:
            await pull_image(parts, sys.argv[2])
        if "remove" in sys.argv:
            for record in await list_images(parts):
                await remove_image(parts, record.id)
    finally:
        await supervisor.close()
        parts.trash.drain()
        await close_image_parts(parts)

asyncio.run(main())
"""


def run(root: Path, reference: str, *verbs: str, fault: str = "") -> tuple[int, dict[str, object]]:
    import json

    environment = os.environ | {"ORLOP_FAULTS": fault}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), reference, *verbs],
        capture_output=True,
        env=environment,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[0])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    lower = Layer().add("d", kind=b"5", mode=0o700).add("f", os.urandom(3 << 20))
    upper = Layer().add("d/implicit", b"1")
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        push(registry.host, "faults", "latest", image([lower.tar(), upper.tar()], {}))
        yield f"{registry.host}/faults:latest"


NOTHING = {"images": [], "layers": 0, "chains": 0, "staging": 0, "trash": 0, "blobs": 0}


def test_all_points_are_declared() -> None:
    declared = {
        pull.RESOLVE,
        pull.DOCUMENTS,
        pull.DOWNLOAD,
        pull.APPLIED,
        pull.LAYERS,
        pull.CHAIN,
        pull.ROW,
        remove.ROW,
    }
    assert set(POINTS) == declared


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("verb", ["kill", "fail"])
def test_nothing_half_made_remains(tmp_path: Path, reference: str, point: str, verb: str) -> None:
    whole = {"images": [[reference]], "layers": 2, "chains": 1, "staging": 0, "trash": 0, "blobs": 2}
    code, before = run(tmp_path, reference, "pull", "remove", fault=f"{point}={verb}")
    assert before == NOTHING
    assert code == (-signal.SIGKILL if verb == "kill" else 1)
    # The row is the last step of a pull and the first of a removal.
    code, after = run(tmp_path, reference, "pull")
    assert after == (whole if point == pull.ROW else NOTHING) and code == 0
    code, again = run(tmp_path, reference, "remove")
    assert again == whole and code == 0
    assert run(tmp_path, reference)[1] == NOTHING
