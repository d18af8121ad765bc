"""The images that critest asks for by name, made from Debian's material, and the mirrors that make a runtime find them.

critest's names are fixed (gcr.io, registry.k8s.io, k8s.gcr.io), so a runtime under test is given a certs.d in which each of these
hosts is served by the registry on loopback. One image is missing: test-image-digest is pinned to a manifest that cannot be made again.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.images.build import Image, Layer, busybox_layer, image, nginx_image, push
from tests.tools.build import CACHE, busybox

HOSTS = ("docker.io", "gcr.io", "k8s.gcr.io", "registry.k8s.io")
PAUSE = "registry.k8s.io/pause:3.9"
BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
NGINX = "registry.k8s.io/e2e-test-images/nginx:1.14-2"
STAGING = "k8s-staging-cri-tools"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOURCES = Path(__file__).parent / "programs"


def compiled(name: str) -> bytes:
    """A program of tests/images/programs as a static binary, built when its source is newer."""
    source, program = SOURCES / f"{name}.c", CACHE / "programs" / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(".new")
        subprocess.run(["musl-gcc", "-O2", "-static", "-s", "-Wall", "-Werror", source, "-o", made], check=True)
        made.rename(program)
    return program.read_bytes()


def pause_image() -> Image:
    return image([Layer().add("pause", compiled("pause"), mode=0o755).tar()], {"Entrypoint": ["/pause"], "Env": [PATH]})


def httpd_image(base: bytes) -> Image:
    """A web server on port 80 that names itself in its log when it starts, as Apache does: busybox's."""
    page = Layer().directory("var/www").add("var/www/index.html", b"<h1>It works!</h1>\n")
    serve = "echo 'httpd: resuming normal operations'; exec httpd -f -p 80 -h /var/www"
    return image([base, page.tar()], {"Cmd": ["sh", "-c", serve], "Env": [PATH]})


def images() -> dict[str, Image]:
    """Every image by ``repository:tag``."""
    base = busybox_layer(busybox())

    def from_busybox(mark: str, docker: bool = False, **config: object) -> Image:
        settings: dict[str, object] = {"Cmd": ["sh"], "Env": [PATH], **config}
        layers = [base, Layer().add(f"image-{mark}", mark.encode()).tar()]
        return image(layers, settings, docker=docker)

    nonewprivs = Layer().directory("usr", "usr/local", "usr/local/bin")
    nonewprivs.add("usr/local/bin/nonewprivs", compiled("nonewprivs"), mode=0o4755)
    tags = from_busybox("tags")
    found = {
        "pause:3.9": pause_image(),
        "e2e-test-images/busybox:1.29-2": image([base], {"Cmd": ["sh"], "Env": [PATH]}),
        "e2e-test-images/nginx:1.14-2": nginx_image(base=base),
        "e2e-test-images/nonewprivs:1.3": image(
            [base, nonewprivs.tar()], {"Entrypoint": ["/usr/local/bin/nonewprivs"], "Env": [PATH]}
        ),
        f"{STAGING}/hostnet-nginx-amd64:latest": nginx_image(port=12003, base=base),
        "e2e-test-images/httpd:2.4.39-4": httpd_image(base),
        # Half of the published ones are schema 2, half OCI: both must work here as well.
        f"{STAGING}/test-image-latest:latest": from_busybox("latest", docker=True),
        f"{STAGING}/test-image-tag:test": from_busybox("tag-test", docker=True),
        f"{STAGING}/test-image-tag:all": from_busybox("tag-all"),
        f"{STAGING}/test-image-predefined-group:latest": from_busybox("predefined-group", User="1000"),
    }
    for number in ("1", "2", "3"):
        found[f"{STAGING}/test-image-{number}:latest"] = from_busybox(number, docker=number == "1")
        found[f"{STAGING}/test-image-tags:{number}"] = tags
    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"}
    for name, user in users.items():
        found[f"{STAGING}/test-image-user-{name}:latest"] = from_busybox(f"user-{name}", User=user)
    return found


def push_all(host: str) -> None:
    for name, each in images().items():
        repository, tag = name.rsplit(":", 1)
        push(host, repository, tag, each)


def write_mirrors(certs_d: Path, host: str, hosts: tuple[str, ...] = HOSTS) -> Path:
    """Make the registry at ``host`` (plain HTTP) answer for ``hosts`` and for itself; returns the directory."""
    for name in (*hosts, host):
        (certs_d / name).mkdir(parents=True, exist_ok=True)
        (certs_d / name / "hosts.toml").write_text(
            f'server = "http://{host}"\n\n[host."http://{host}"]\n  capabilities = ["pull", "resolve"]\n'
        )
    return certs_d
