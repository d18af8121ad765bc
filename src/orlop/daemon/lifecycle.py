"""Start order, signals, end: the daemon's life from the lock to the last connection.

    1 lock both directories (a second daemon on either is refused)     4 recover (RPCs answer UNAVAILABLE until then)
    2 wire the parts                                                   5 open the ready gate, tell systemd
    3 listen, so that clients queue instead of failing                 6 SIGTERM/SIGINT: stop serving; pods go on.  SIGHUP: reload

The daemon never forks and never ends a pod by ending itself. Test: tests/cri/test_lifecycle.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop.base.errors import FailedPrecondition, OrlopError
from orlop.base.paths import RootPaths, StatePaths
from orlop.cri.server import CriServer
from orlop.daemon.config import BUILT_IN_HANDLER, Config
from orlop.daemon.notify import notify
from orlop.daemon.wiring import find_handlers, wire
from orlop.nri.listen import Listener
from orlop.services.containers.autoremove import arm_removals
from orlop.services.gc import sweep_cgroups, sweep_network
from orlop.services.images.parts import close_image_parts, make_root_directories
from orlop.services.images.recover import recover_images
from orlop.services.node import Node
from orlop.services.nri.start import open_nri
from orlop.services.options import Options
from orlop.services.recovery import recover
from orlop.services.warm import warm
from orlop.streamserver.server import StreamServer

log = logging.getLogger(__name__)

NRI_SOCKET = Path("/var/run/nri/nri.sock")
NRI_PLUGINS = Path("/opt/nri/plugins")
CLOSE_SECONDS = 5.0
"""How long links of pods that were stopped just now may take to go when the daemon ends."""


class DirectoryLock:
    """An flock on a file in a directory, held as long as the process lives."""

    def __init__(self, path: Path, purpose: str) -> None:
        with _usable(purpose, path.parent):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise FailedPrecondition(f"{purpose} {path.parent}: another orlopd is using it") from None


def make_directories(root: RootPaths, state: StatePaths) -> None:
    """Make what must exist, closed to other users (CVE-2024-25621: state directories that anybody may enter)."""
    with _usable("root directory", root.root):
        make_root_directories(root)
    with _usable("state directory", state.state):
        for directory in (state.state, state.pods):
            directory.mkdir(0o700, parents=True, exist_ok=True)


@contextmanager
def _usable(purpose: str, path: Path) -> Iterator[None]:
    """Say of a directory that can't be made or written which one it is: the operator has named it, the file below it is ours."""
    try:
        yield
    except OSError as error:
        where = "" if error.filename in (None, str(path)) else f" ({error.filename})"
        raise FailedPrecondition(f"{purpose} {path}: cannot be used: {error.strerror}{where}") from error


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises FailedPrecondition when another daemon has the directories, or they can't be used."""
    os.umask(0o077)
    root, state = RootPaths(root=config.root), StatePaths(state=config.state)
    make_directories(root, state)
    locks = (DirectoryLock(root.lock, "root directory"), DirectoryLock(state.lock, "state directory"))
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)

    handlers = await find_handlers(
        state,
        {name: each.path for name, each in config.runtime.handlers.items() if name != BUILT_IN_HANDLER},
        config.runtime.default_handler,
    )
    node = wire(
        root,
        state,
        registry_config_path=config.registry.config_path,
        cgroup_driver=config.runtime.cgroup_driver,
        handlers=handlers,
        bridge=config.network.bridge,
        subnets=config.network.subnets,
        cni_conf_dir=config.cni.conf_dir,
        cni_bin_dirs=config.cni.bin_dirs,
        options=Options(
            ulimits=config.runtime.default_ulimits,
            log_rate=config.runtime.log_rate,
            rootfs_bytes=config.runtime.rootfs_size,
            cdi_dirs=config.runtime.cdi_spec_dirs,
        ),
        nri_registration_seconds=config.nri.registration_timeout,
        nri_request_seconds=config.nri.request_timeout,
        nri_rules=config.nri.default_validator if config.nri.enabled else None,
    )
    streams = StreamServer(
        node,
        config.streaming.address,
        config.streaming.port,
        certificate=config.streaming.tls_cert_file,
        key=config.streaming.tls_key_file,
    )
    server = CriServer(node, config.listen, streams)
    loop.add_signal_handler(signal.SIGHUP, lambda: node.supervisor.spawn("reload", _reload(config, streams)))
    streams.start()
    await server.start()
    if node.options.rootfs_bytes and node.rootfs_limits_missing:
        log.warning("runtime.rootfs_size is ignored: %s", node.rootfs_limits_missing)
    node.snapshots.unmount_leftovers()
    await recover_images(node.images)
    await recover(node)
    arm_removals(node)
    node.supervisor.spawn("sweep cgroups", sweep_cgroups(node))
    plugins = await _open_nri(node, config)
    node.supervisor.spawn("sweep network", sweep_network(node))
    network = await node.network.status()
    if not network.ready:
        log.warning("network is not ready: %s", network.message)
    # What is alive now lives as long as the daemon: keep it out of every later collection.
    gc.collect()
    gc.freeze()
    server.open_gate()
    notify("READY=1")
    log.info("ready: listening on %s", config.listen)
    node.supervisor.spawn("warm", warm(node.host))
    await ended.wait()

    notify("STOPPING=1")
    log.info("stopping: pods go on")
    await server.stop()
    await streams.stop()
    if plugins is not None:
        await plugins.close()
    await node.nri.close()
    await node.supervisor.close()
    try:
        await asyncio.wait_for(node.network.close(), CLOSE_SECONDS)
    except (OrlopError, TimeoutError) as error:
        log.warning("network: what is left of stopped pods is removed at the next start: %s", error or "not in time")
    for pod in node.live:
        node.live.drop(pod.id)
    node.cgroups.close()
    await close_image_parts(node.images)
    node.pods.close()
    node.monitor_program.close()
    del locks


async def _open_nri(node: Node, config: Config) -> Listener | None:
    nri = config.nri
    if not nri.enabled:
        return None
    alone = config.state == Config().state
    socket = nri.socket_path or (NRI_SOCKET if alone else config.state / NRI_SOCKET.name)
    return await open_nri(
        node,
        socket=None if nri.disable_connections else socket,
        must_listen=nri.socket_path is not None,
        programs=nri.plugin_path or (NRI_PLUGINS if alone else None),
        configurations=nri.plugin_config_path,
    )


async def _reload(config: Config, streams: StreamServer) -> None:
    streams.reload()
    changed = config.reload()
    log.info(
        "configuration read again: %s", ", ".join(changed) if changed else "nothing changed that can change at run time"
    )
