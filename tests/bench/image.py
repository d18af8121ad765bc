"""The image of the pull row: 2 GB in 80,000 files and four layers, the same bytes every time; made once, kept in the registry's directory.

Sizes follow a root file system's shape: many small files, few large ones; about half of the bytes compress.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.images.build import Layer, image, push
from tests.images.registry import Registry

REPOSITORY = "orlop-bench/big"
LAYERS = 4
SEED = 20


def layer(number: int, files: int, total_bytes: int) -> bytes:
    source = random.Random(SEED + number)
    noise = source.randbytes(1 << 20)
    words = b" ".join(source.choice([b"deck", b"cargo", b"hold", b"mast", b"rope", b"keel"]) for _ in range(1 << 16))
    weights = [source.paretovariate(1.2) for _ in range(files)]
    scale = total_bytes / sum(weights)
    made = Layer().directory(f"data{number}")
    for index, weight in enumerate(weights):
        if index % 500 == 0:
            made.directory(f"data{number}/{index // 500}")
        size = max(16, int(weight * scale))
        start = source.randrange(1 << 18)
        piece = noise if index % 2 else words
        body = (piece[start:] + piece * (size // len(piece) + 1))[:size]
        made.add(f"data{number}/{index // 500}/{index}", body, mode=0o755 if index % 7 == 0 else 0o644)
    return made.tar()


def prepare(registry: Registry, *, files: int, total_bytes: int, mark: Path) -> str:
    """Push the image unless ``mark`` says that this registry directory has it; return its reference on the registry."""
    tag = f"{total_bytes >> 20}mb-{files}files"
    if not (mark / tag).exists():
        layers = [layer(number, files // LAYERS, total_bytes // LAYERS) for number in range(LAYERS)]
        push(registry.host, REPOSITORY, tag, image(layers, {"Cmd": ["/bin/true"]}))
        mark.mkdir(parents=True, exist_ok=True)
        (mark / tag).touch()
    return f"{registry.host}/{REPOSITORY}:{tag}"
