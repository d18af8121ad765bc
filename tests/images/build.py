"""Real images from Debian's own programs: layers, configs, manifests, indexes; pushed to a registry with the standard library.

No docker, no network but loopback. busybox's applets are hard links, as the images that critest expects have them.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution.manifest"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Layer:
    """A layer under construction; ``tar`` is uncompressed."""

    buffer: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self.archive = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(
        self,
        name: str,
        data: bytes = b"",
        *,
        mode: int = 0o644,
        kind: bytes = tarfile.REGTYPE,
        link: str = "",
        **more: object,
    ) -> Layer:
        info = tarfile.TarInfo(name)
        info.mode, info.type, info.linkname, info.size = mode, kind, link, len(data)
        for key, value in more.items():
            setattr(info, key, value)
        self.archive.addfile(info, io.BytesIO(data))
        return self

    def directory(self, *names: str, mode: int = 0o755) -> Layer:
        for name in names:
            self.add(name, mode=mode, kind=tarfile.DIRTYPE)
        return self

    def tar(self) -> bytes:
        self.archive.close()
        return self.buffer.getvalue()


@dataclass
class Image:
    """What is pushed: a manifest with its blobs."""

    manifest: bytes
    media_type: str
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def image(layers: list[bytes], config: dict[str, object], *, docker: bool = False, compression: str = "gzip") -> Image:
    """Return an image of uncompressed layer tars; docker=True makes a schema 2 manifest."""
    blobs: dict[str, bytes] = {}
    descriptors = []
    for tar in layers:
        if compression == "gzip":
            data, suffix = gzip.compress(tar, 1, mtime=0), "gzip"
        elif compression == "zstd":
            import zstandard

            data, suffix = zstandard.ZstdCompressor(level=1).compress(tar), "zstd"
        else:
            data, suffix = tar, ""
        kind = (
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
            if docker
            else f"{OCI}.layer.v1.tar" + (f"+{suffix}" if suffix else "")
        )
        blobs[digest_of(data)] = data
        descriptors.append({"mediaType": kind, "digest": digest_of(data), "size": len(data)})
    document = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in layers]},
        }
    ).encode()
    blobs[digest_of(document)] = document
    config_type = "application/vnd.docker.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
    media_type = f"{DOCKER}.v2+json" if docker else f"{OCI}.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "digest": digest_of(document), "size": len(document)},
        "layers": descriptors,
    }
    return Image(json.dumps(manifest).encode(), media_type, blobs)


def index(members: list[tuple[Image, str]]) -> Image:
    """Return an OCI index over (image, architecture) pairs; the members must be pushed as well."""
    manifests = [
        {
            "mediaType": each.media_type,
            "digest": each.digest,
            "size": len(each.manifest),
            "platform": {"os": "linux", "architecture": arch},
        }
        for each, arch in members
    ]
    media_type = f"{OCI}.index.v1+json"
    return Image(
        json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).encode(), media_type, {}
    )


def push(host: str, repository: str, reference: str, pushed: Image) -> str:
    """Push to a plain-HTTP registry; reference is a tag or the manifest's digest. Returns the manifest's digest."""
    connection = http.client.HTTPConnection(host, timeout=60)

    def call(
        method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        if response.status >= 400 and method != "HEAD":
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
        return response

    for name, data in pushed.blobs.items():
        if call("HEAD", f"/v2/{repository}/blobs/{name}").status == 200:
            continue
        location = call("POST", f"/v2/{repository}/blobs/uploads/", b"").headers["Location"]
        path = location[location.index("/v2/") :]
        call(
            "PUT",
            f"{path}{'&' if '?' in path else '?'}digest={name}",
            data,
            {"Content-Type": "application/octet-stream"},
        )
    call("PUT", f"/v2/{repository}/manifests/{reference}", pushed.manifest, {"Content-Type": pushed.media_type})
    connection.close()
    return pushed.digest


DEBIAN_BUSYBOX = Path("/bin/busybox")


def busybox_layer(busybox: Path = DEBIAN_BUSYBOX) -> bytes:
    """A root file system of a static busybox, its applets as hard links, with users for the tests."""
    program = busybox.read_bytes()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer = Layer().directory("bin", "etc", "proc", "sys", "dev", "root", "var", "var/run", "home", "home/web")
    layer.directory("tmp", mode=0o1777)
    layer.add("bin/busybox", program, mode=0o755)
    for applet in applets:
        if applet != "busybox":
            layer.add(f"bin/{applet}", mode=0o755, kind=tarfile.LNKTYPE, link="bin/busybox")
    layer.add(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n"
        b"nobody:x:65534:65534::/:/bin/false\n",
    )
    layer.add("etc/group", b"root:x:0:\nweb:x:1000:\nextra:x:50000:web\nwww-data:x:33:\nnogroup:x:65534:\n")
    return layer.tar()


def busybox_image(**config: object) -> Image:
    settings: dict[str, object] = {
        "Cmd": ["sh"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        **config,
    }
    return image([busybox_layer()], settings)


def libraries_of(program: str) -> list[str]:
    """Absolute paths of the shared libraries of a program, the loader among them, as the loader resolves them."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    found = []
    for line in done.stdout.splitlines():
        for word in line.split():
            if word.startswith("/"):
                found.append(word)
    return found


def nginx_image(port: int = 80, base: bytes | None = None) -> Image:
    """Debian's nginx on busybox (or on another base layer); serves one page, logs to stdout."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    layer = Layer().directory(
        "usr",
        "usr/sbin",
        "etc/nginx",
        "var/log",
        "var/log/nginx",
        "var/lib",
        "var/lib/nginx",
        "var/www",
        "lib",
        "lib64",
    )
    layer.add("usr/sbin/nginx", Path(program).read_bytes(), mode=0o755)
    for library in dict.fromkeys(libraries_of(program)):
        layer.add(library.lstrip("/"), Path(library).read_bytes(), mode=0o755)
    conf = f"""daemon off; worker_processes 1; pid /var/run/nginx.pid; error_log /dev/stderr; user root;
events {{ worker_connections 64; }}
http {{ access_log /dev/stdout; server {{ listen {port}; location / {{ root /var/www; index index.html; }} }} }}
"""
    layer.add("etc/nginx/nginx.conf", conf.encode())
    layer.add("var/www/index.html", b"<h1>served by a pod of orlop</h1>\n")
    return image(
        [base or busybox_layer(), layer.tar()],
        {
            "Cmd": ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"],
            "Env": ["PATH=/usr/sbin:/bin"],
            "ExposedPorts": {f"{port}/tcp": {}},
        },
    )
