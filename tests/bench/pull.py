"""Pull of a 2 GB, 80k-file, 4-layer image from a loopback registry: orlop and containerd in turn, in one run.

    python -m tests.bench.pull [--rounds 3] [--files 80000] [--bytes 2000000000]

Needs root, docker-registry, containerd, ctr (Debian packages). Everything is below one temporary directory and goes
with it. Prints seconds of each round, medians and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from isal import igzip

from orlop.base.paths import RootPaths
from orlop.base.supervise import Supervisor
from orlop.services.images.parts import close_image_parts, open_image_parts
from orlop.services.images.pull import pull_image
from orlop.services.images.recover import recover_images
from orlop.services.images.remove import remove_image
from tests.images.build import Image, digest_of, push
from tests.images.registry import Registry

LAYERS = 4


def material() -> bytes:
    """Bytes that compress as programs and texts do: what this machine's own libraries hold."""
    data = bytearray()
    for path in sorted(Path("/usr/lib").rglob("*.so*")) + sorted(Path("/usr/share").rglob("*.html")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 8 << 20:
            data += path.read_bytes()
        if len(data) > 256 << 20:
            break
    return bytes(data)


def layer(number: int, files: int, size: int, data: bytes) -> bytes:
    """A layer tar; sizes are spread as in real trees: many small files, few large ones."""
    chance = random.Random(number)
    weights = [chance.paretovariate(1.2) for _ in range(files)]
    scale = size / sum(weights)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for at, weight in enumerate(weights):
            if at % 50 == 0:
                info = tarfile.TarInfo(f"layer{number}/d{at // 2500}/d{at // 50}")
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            length = min(int(weight * scale), len(data) // 2)
            info = tarfile.TarInfo(f"layer{number}/d{at // 2500}/d{at // 50}/file{at}")
            info.size, info.mode, info.mtime = length, 0o644, 1_700_000_000
            start = chance.randrange(len(data) - length)
            archive.addfile(info, io.BytesIO(data[start : start + length]))
    return buffer.getvalue()


def build(files: int, size: int) -> tuple[Image, int, int]:
    import json

    data = material()
    blobs: dict[str, bytes] = {}
    descriptors, diff_ids, total = [], [], 0
    for number in range(LAYERS):
        tar = layer(number, files // LAYERS, size // LAYERS, data)
        packed = igzip.compress(tar, 3)
        total += len(tar)
        diff_ids.append(digest_of(tar))
        blobs[digest_of(packed)] = packed
        descriptors.append(
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest_of(packed),
                "size": len(packed),
            }
        )
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    blobs[digest_of(config)] = config
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": descriptors,
    }
    packed_size = sum(len(blob) for blob in blobs.values())
    return Image(json.dumps(manifest).encode(), media_type, blobs), total, packed_size


class Containerd:
    """A containerd of the benchmark's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"

    def __enter__(self) -> Containerd:
        self.directory.mkdir(parents=True)
        config = self.directory / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self.directory}/root"\nstate = "{self.directory}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{self.socket}"\n'
        )
        self.log = open(self.directory / "log", "wb")
        self.process = subprocess.Popen(["containerd", "-c", str(config)], stdout=self.log, stderr=self.log)
        while self.ctr("version", check=False).returncode != 0:
            if self.process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.05)
        return self

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ctr", "-a", str(self.socket), *arguments], check=check, capture_output=True)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def settle() -> None:
    """Let no one pay for the other's dirty pages or removals."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


async def orlop_round(directory: Path, reference: str) -> tuple[float, float]:
    """Return seconds until the pull returned, and until it was on the disk."""
    supervisor = Supervisor("bench")
    parts = open_image_parts(
        RootPaths(root=directory), registry_config_path=None, supervisor=supervisor, layers_in_use=set
    )
    await recover_images(parts)
    started = time.perf_counter()
    record = await pull_image(parts, reference)
    pulled = time.perf_counter() - started
    while parts.db.unsynced():
        await asyncio.sleep(0.01)
    durable = time.perf_counter() - started
    await remove_image(parts, record.id)
    await supervisor.close()
    await asyncio.to_thread(parts.trash.drain)
    await close_image_parts(parts)
    return pulled, durable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=80_000)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    options = parser.parse_args()
    # Whoever ends the benchmark early gets the same clean-up: both servers stopped, the directory removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="orlop-bench-"))
    try:
        built, total, packed = build(options.files, options.bytes)
        print(
            f"image: {total / 1e9:.2f} GB of tar, {packed / 1e9:.2f} GB packed, {options.files} files, {LAYERS} layers"
        )
        with Registry(directory / "registry") as registry, Containerd(directory / "containerd") as containerd:
            push(registry.host, "bench", "latest", built)
            del built
            reference = f"{registry.host}/bench:latest"
            ours: list[float] = []
            durable: list[float] = []
            theirs: list[float] = []
            for number in range(options.rounds):
                settle()
                seconds, on_disk = asyncio.run(orlop_round(directory / f"orlop{number}", reference))
                ours.append(seconds)
                durable.append(on_disk)
                settle()
                started = time.perf_counter()
                containerd.ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference)
                theirs.append(time.perf_counter() - started)
                containerd.ctr("images", "rm", "--sync", reference)
                mine = f"orlop {seconds:.2f} s (on disk {on_disk:.2f} s)"
                print(f"round {number + 1}: {mine}, containerd {theirs[-1]:.2f} s", flush=True)
            a, b, c = (statistics.median(each) for each in (ours, theirs, durable))
            print(f"median: orlop {a:.2f} s, on disk {c:.2f} s; containerd {b:.2f} s")
            print(f"ratio: {b / a:.1f}x, on disk {b / c:.1f}x")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
