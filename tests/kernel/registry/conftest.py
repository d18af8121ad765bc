"""A root directory with its parts for each test; nothing staged, downloading or in the trash may be left behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from orlop.base.paths import RootPaths
from orlop.base.supervise import Supervisor
from orlop.registry.transport import Timeouts
from orlop.services.images.parts import ImageParts, close_image_parts, open_image_parts
from orlop.services.images.recover import recover_images
from tests.images.registry import Registry

FAST = Timeouts(connect=2.0, progress=0.5, backoff=0.01)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest_asyncio.fixture
async def parts(tmp_path: Path) -> AsyncIterator[ImageParts]:
    certs = tmp_path / "certs.d"
    certs.mkdir()
    supervisor = Supervisor("images")
    opened = open_image_parts(
        RootPaths(root=tmp_path / "root"),
        registry_config_path=certs,
        supervisor=supervisor,
        layers_in_use=set,
        timeouts=FAST,
    )
    await recover_images(opened)
    yield opened
    await supervisor.close()
    opened.trash.drain()
    await close_image_parts(opened)
    for directory in (opened.paths.staging, opened.paths.trash):
        assert os.listdir(directory) == []
    assert not opened.held and not opened.trackers
