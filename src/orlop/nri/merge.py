"""Join what several plugins ask for into one adjustment, or one set of updates; a conflict is an error that names both plugins.

    CreateMerge: each plugin sees the container as the plugins before it left it, and its answer goes into ``adjust`` and ``updates``
    UpdateMerge: the same for an update of one container (``wanted``) and of others (``updates``)

A key with "-" before it is a removal. What is removed may be set again in the same answer; a removal that nothing follows stays in ``adjust``,
where it takes away what the container had from elsewhere; in ``adjust`` lists are carried out in order, of maps the removals first.
Pure: messages in, messages out. Test: tests/unit/nri/test_merge.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, MutableSequence
from typing import Any, Final

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.nri.owners import MARK, Owners
from orlop.specs.nri_gen import nri_pb2 as nri

F = nri.Field
_MEMORY: Final = (
    ("limit", F.MemLimit),
    ("reservation", F.MemReservation),
    ("swap", F.MemSwapLimit),
    ("kernel", F.MemKernelLimit),
    ("kernel_tcp", F.MemTCPLimit),
    ("swappiness", F.MemSwappiness),
    ("disable_oom_killer", F.MemDisableOomKiller),
    ("use_hierarchy", F.MemUseHierarchy),
)
_CPU: Final = (
    ("shares", F.CPUShares),
    ("quota", F.CPUQuota),
    ("period", F.CPUPeriod),
    ("realtime_runtime", F.CPURealtimeRuntime),
    ("realtime_period", F.CPURealtimePeriod),
)
_CPUSETS: Final = (("cpus", F.CPUSetCPUs), ("mems", F.CPUSetMems))
_CLASSES: Final = (("blockio_class", F.BlockioClass), ("rdt_class", F.RdtClass), ("pids", F.PidsLimit))
_HOOKS: Final = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")
_LINUX: Final = (
    ("oom_score_adj", F.OomScoreAdj),
    ("io_priority", F.IoPriority),
    ("seccomp_policy", F.SeccompPolicy),
    ("scheduler", F.LinuxSched),
    ("memory_policy", F.MemoryPolicy),
)
_RDT: Final = (
    ("clos_id", F.RdtClosID),
    ("schemata", F.RdtSchemata),
    ("enable_monitoring", F.RdtEnableMonitoring),
)


def removal(key: str) -> str | None:
    """Return what a key asks to remove, None when it asks for no removal."""
    return key[1:] if key.startswith(MARK) else None


class _Updates:
    """Updates of containers other than the one that the request is about."""

    def __init__(self) -> None:
        self.by_id: dict[str, nri.ContainerUpdate] = {}
        self.owners: dict[str, Owners] = {}

    def apply(self, update: nri.ContainerUpdate, plugin: str, into: nri.LinuxResources | None = None) -> None:
        """Add one update. One that conflicts and may fail is left out whole."""
        held = self.by_id.get(update.container_id)
        if held is None:
            held = nri.ContainerUpdate(container_id=update.container_id, ignore_failure=update.ignore_failure)
        target = nri.LinuxResources()
        target.CopyFrom(held.linux.resources if into is None else into)
        owners = self.owners.get(update.container_id, Owners()).copy()
        if update.linux.HasField("resources"):
            try:
                merge_resources(update.linux.resources, plugin, owners, target)
            except FailedPrecondition:
                if update.ignore_failure:
                    return
                raise
        self.owners[update.container_id] = owners
        self.by_id[update.container_id] = held
        held.ignore_failure = held.ignore_failure and update.ignore_failure
        (held.linux.resources if into is None else into).CopyFrom(target)


class CreateMerge:
    """Collects the answers to one CreateContainer."""

    def __init__(self, container: nri.Container) -> None:
        self.container = container
        """What the next plugin sees; changed as answers come in."""
        self.adjust = nri.ContainerAdjustment()
        self.owners = Owners()
        self.evictions: list[nri.ContainerEviction] = []
        self._others = _Updates()

    @property
    def updates(self) -> list[nri.ContainerUpdate]:
        return list(self._others.by_id.values())

    def owning_plugins(self) -> nri.OwningPlugins:
        """Return who asked for what, for validators."""
        made = nri.OwningPlugins()
        for container_id, owners in {self.container.id: self.owners, **self._others.owners}.items():
            made.owners[container_id].CopyFrom(owners.message())
        return made

    def add(self, answer: nri.CreateContainerResponse, plugin: str) -> None:
        """Take a plugin's answer in. Raises FailedPrecondition on a conflict, InvalidArgument for an update of the container itself."""
        self._adjust(answer.adjust, plugin)
        for update in answer.update:
            if update.container_id == self.container.id:
                raise InvalidArgument(f"plugin {plugin} asked for an update of the container while it is created")
            self._others.apply(update, plugin)
        self.evictions.extend(answer.evict)

    def _adjust(self, wanted: nri.ContainerAdjustment, plugin: str) -> None:
        seen, adjust = self.container, self.adjust
        self._map(F.Annotations, wanted.annotations, seen.annotations, adjust.annotations, plugin)
        self._list(F.Mounts, wanted.mounts, seen.mounts, adjust.mounts, _destination, plugin)
        self._env(wanted.env, plugin)
        self._args(list(wanted.args), plugin)
        self._hooks(wanted.hooks, plugin)
        if wanted.HasField("linux"):
            self._linux(wanted.linux, plugin)
        for limit in wanted.rlimits:
            self.owners.claim(F.Rlimits, plugin, limit.type)
            _replace(seen.rlimits, limit, lambda each: each.type == limit.type)  # noqa: B023 - called at once
            adjust.rlimits.append(limit)
        for device in wanted.CDI_devices:
            # Not shown to the plugins behind: only the runtime knows what stands for a name.
            self.owners.claim(F.CdiDevices, plugin, device.name)
            adjust.CDI_devices.append(device)

    def _linux(self, wanted: nri.LinuxContainerAdjustment, plugin: str) -> None:
        seen, adjust = self.container.linux, self.adjust.linux
        self._list(F.Devices, wanted.devices, seen.devices, adjust.devices, _path, plugin)
        if wanted.HasField("resources"):
            merge_resources(wanted.resources, plugin, self.owners, seen.resources, adjust.resources)
        if wanted.cgroups_path:
            self.owners.claim(F.CgroupsPath, plugin)
            seen.cgroups_path = adjust.cgroups_path = wanted.cgroups_path
        for name, field in _LINUX:
            if wanted.HasField(name):
                self.owners.claim(field, plugin)
                getattr(adjust, name).CopyFrom(getattr(wanted, name))
                if name != "memory_policy":  # plugins are not shown it
                    getattr(seen, name).CopyFrom(getattr(wanted, name))
        self._namespaces(wanted.namespaces, plugin)
        self._map(F.Sysctl, wanted.sysctl, seen.sysctl, adjust.sysctl, plugin)
        self._map(F.LinuxNetDevices, wanted.net_devices, seen.net_devices, adjust.net_devices, plugin)
        if wanted.HasField("rdt"):
            self._rdt(wanted.rdt, plugin)

    def _map(
        self,
        field: int,
        wanted: Any,  # a map container of protobuf: strings, or messages
        seen: Any,
        adjust: Any,
        plugin: str,
    ) -> None:
        removed = {key for marked in wanted if (key := removal(marked)) is not None}
        for key in removed:
            if key in adjust:
                self.owners.clear(field, plugin, key)
                del adjust[key]
            if key in seen:
                del seen[key]
            _put(adjust, MARK + key, None)
        for key in wanted:
            if removal(key) is None:
                self.owners.claim(field, plugin, key)
                _put(seen, key, wanted[key])
                _put(adjust, key, wanted[key])

    def _list(
        self,
        field: int,
        wanted: Iterable[Any],
        seen: MutableSequence[Any],
        adjust: MutableSequence[Any],
        key_of: Callable[[Any], str],
        plugin: str,
    ) -> None:
        removals = {key: each for each in wanted if (key := removal(key_of(each))) is not None}
        added = [each for each in wanted if removal(key_of(each)) is None]
        for index in reversed(range(len(adjust))):
            if (key := key_of(adjust[index])) in removals:
                self.owners.clear(field, plugin, key)
                del adjust[index]
        changed = {*removals, *map(key_of, added)}
        for index in reversed(range(len(seen))):
            if key_of(seen[index]) in changed:
                del seen[index]
        for each in added:
            self.owners.claim(field, plugin, key_of(each))
        set_again = set(map(key_of, added))
        adjust.extend(each for key, each in removals.items() if key not in set_again)
        adjust.extend(added)
        seen.extend(added)

    def _env(self, wanted: Iterable[nri.KeyValue], plugin: str) -> None:
        shown = [
            nri.KeyValue(key=name, value=value) for name, _, value in (e.partition("=") for e in self.container.env)
        ]
        self._list(F.Env, wanted, shown, self.adjust.env, _key, plugin)
        self.container.env[:] = [f"{each.key}={each.value}" for each in shown]

    def _args(self, args: list[str], plugin: str) -> None:
        if not args:
            return
        if args[0] == "":
            self.owners.clear(F.Args, plugin)
            args = args[1:]
        self.owners.claim(F.Args, plugin)
        self.adjust.args[:] = args
        self.container.args[:] = args

    def _hooks(self, hooks: nri.Hooks, plugin: str) -> None:
        found = False
        for kind in _HOOKS:
            for hook in getattr(hooks, kind):
                getattr(self.adjust.hooks, kind).append(hook)
                getattr(self.container.hooks, kind).append(hook)
                found = True
        if found:
            self.owners.join(F.OciHooks, plugin)

    def _namespaces(self, wanted: Iterable[nri.LinuxNamespace], plugin: str) -> None:
        seen = self.container.linux.namespaces
        for namespace in wanted:
            kind = removal(namespace.type)
            self.owners.claim(F.Namespace, plugin, namespace.type if kind is None else kind)
            left = [each for each in seen if each.type != (namespace.type if kind is None else kind)]
            del seen[:]
            seen.extend(left if kind is not None else [*left, namespace])
            self.adjust.linux.namespaces.append(namespace)

    def _rdt(self, wanted: nri.LinuxRdt, plugin: str) -> None:
        adjust = self.adjust.linux.rdt
        if wanted.remove:
            for _, field in _RDT:
                self.owners.clear(field, plugin)
            adjust.CopyFrom(nri.LinuxRdt(remove=True))
        for name, field in _RDT:
            if wanted.HasField(name):
                self.owners.claim(field, plugin)
                getattr(adjust, name).CopyFrom(getattr(wanted, name))


class UpdateMerge:
    """Collects the answers to one UpdateContainer or, without a container of its own, StopContainer."""

    def __init__(self, container_id: str = "", wanted: nri.LinuxResources | None = None) -> None:
        self._id = container_id
        self.wanted = wanted if wanted is not None else nri.LinuxResources()
        """What is asked for the container; changed as answers come in."""
        self.changed = False
        """Whether a plugin changed ``wanted``."""
        self.evictions: list[nri.ContainerEviction] = []
        self._others = _Updates()

    @property
    def updates(self) -> list[nri.ContainerUpdate]:
        """Return the updates of other containers."""
        return [update for container_id, update in self._others.by_id.items() if container_id != self._id]

    def add(
        self, updates: Iterable[nri.ContainerUpdate], plugin: str, evictions: Iterable[nri.ContainerEviction] = ()
    ) -> None:
        """Take a plugin's answer in. Raises FailedPrecondition on a conflict."""
        for update in updates:
            if self._id and update.container_id == self._id:
                self._others.apply(update, plugin, into=self.wanted)
                self.changed = True
            else:
                self._others.apply(update, plugin)
        self.evictions.extend(evictions)


def merge_resources(wanted: nri.LinuxResources, plugin: str, owners: Owners, *targets: nri.LinuxResources) -> None:
    """Claim each field that is given and set it in all targets. Raises FailedPrecondition on a conflict."""
    for part, fields in (("memory", _MEMORY), ("cpu", _CPU), ("", _CLASSES)):
        source = getattr(wanted, part) if part else wanted
        for name, field in fields:
            if source.HasField(name):
                owners.claim(field, plugin)
                for target in targets:
                    getattr(getattr(target, part) if part else target, name).CopyFrom(getattr(source, name))
    for name, field in _CPUSETS:
        if value := getattr(wanted.cpu, name):
            owners.claim(field, plugin)
            for target in targets:
                setattr(target.cpu, name, value)
    for limit in wanted.hugepage_limits:
        owners.claim(F.HugepageLimits, plugin, limit.page_size)
        for target in targets:
            _replace(target.hugepage_limits, limit, lambda each: each.page_size == limit.page_size)  # noqa: B023
    for key, value in wanted.unified.items():
        owners.claim(F.CgroupsUnified, plugin, key)
        for target in targets:
            target.unified[key] = value
    for rule in wanted.devices:
        for target in targets:
            target.devices.append(rule)


def _replace(entries: MutableSequence[Any], new: Any, same: Callable[[Any], bool]) -> None:
    for index in reversed(range(len(entries))):
        if same(entries[index]):
            del entries[index]
    entries.append(new)


def _put(target: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Set a key of a protobuf map of strings or of messages; None is the empty value."""
    if value is None:
        # Reading an entry makes it, empty, for messages; for strings it has to be set.
        try:
            target[key] = ""
        except (TypeError, ValueError, AttributeError):
            target[key]
    elif isinstance(value, str):
        target[key] = value
    else:
        target[key].CopyFrom(value)


def _destination(mount: nri.Mount) -> str:
    return mount.destination


def _path(device: nri.LinuxDevice) -> str:
    return device.path


def _key(variable: nri.KeyValue) -> str:
    return variable.key
