"""Every limit on bytes, counts and times that come from outside, in one place. Each one has a test that crosses it.

Sizes in bytes, times in seconds. A value is here, and nowhere else, so that an operator can read what bounds the
daemon.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# Documents from registries.
MANIFEST_BYTES: Final = 4 * MIB
INDEX_BYTES: Final = 4 * MIB
IMAGE_CONFIG_BYTES: Final = 8 * MIB
JSON_DEPTH: Final = 32
INDEX_DEPTH: Final = 2
INDEX_DESCRIPTORS: Final = 1000
LAYERS_PER_IMAGE: Final = 512
IMAGE_VOLUMES: Final = 128
IMAGE_ENV_BYTES: Final = 1 * MIB
TOKEN_RESPONSE_BYTES: Final = 1 * MIB
REDIRECTS: Final = 5

# Layers.
LAYER_UNCOMPRESSED_BYTES: Final = 64 * GIB
LAYER_ENTRIES: Final = 2_000_000
TAR_PATH_BYTES: Final = 4096
TAR_PAX_BYTES: Final = 1 * MIB
TAR_XATTR_BYTES: Final = 64 * KIB
ZSTD_WINDOW_BYTES: Final = 128 * MIB

# Files read out of a container's root.
PASSWD_BYTES: Final = 1 * MIB
PASSWD_LINES: Final = 64 * KIB

# CRI requests.
UNIX_PATH_BYTES: Final = 107
"""What fits into sun_path with its final NUL."""
GRPC_MESSAGE_BYTES: Final = 16 * MIB
NAME_BYTES: Final = 1024
METRIC_INTERFACES: Final = 256
"""Interfaces of one pod that metrics and statistics tell of; a pod with the right to make links can make any number."""
STREAM_BATCH_ITEMS: Final = 1000
"""Objects in one message of a streamed list."""
STREAM_BATCH_BYTES: Final = 1 * MIB
"""One message of a streamed list, unless a single object is larger."""
LABEL_BYTES: Final = 256 * KIB
ANNOTATION_BYTES: Final = 4 * MIB
EXEC_SYNC_OUTPUT_BYTES: Final = 16 * MIB
EXEC_PLANS_KEPT: Final = 4
"""Compiled exec plans kept a pod, some 10 kB each: one for each probe that repeats."""
ATTACH_KEPT_BYTES: Final = 1 * MIB
"""Output that the daemon keeps for an attached client which reads more slowly than the container writes."""
ATTACH_BACKLOG_BYTES: Final = 64 * MIB
"""Output that a pod's monitor keeps for all such clients together; then the one farthest behind is let go (BACKLOG_MAX in C)."""
MEMORY_LIMIT_MIN_BYTES: Final = 512 * KIB
"""The launching child itself is charged to the container before its exec; with less it is killed at once."""
ID_MAPPINGS: Final = 340
"""Ranges of one id map: what the kernel takes."""
ID_LIMIT: Final = (1 << 32) - 1
"""One beyond the last id that a map may hold."""
CONTAINER_STOP_KILL_SECONDS: Final = 30.0

# Streaming sessions (exec, attach, port-forward).
STREAM_TOKENS: Final = 1000
"""URLs given out and not used yet."""
STREAM_TOKEN_SECONDS: Final = 60.0
STREAM_CONNECTIONS: Final = 1024
"""Connections to the streaming server, whatever they do."""
STREAM_HEAD_BYTES: Final = 64 * KIB
"""A request's line and headers."""
STREAM_HEAD_SECONDS: Final = 10.0
"""From the connection to the end of its request, TLS included."""
STREAM_SETUP_SECONDS: Final = 30.0
"""From the upgrade until the client has opened all its streams."""
STREAM_IDLE_SECONDS: Final = 4 * 3600.0
"""Without a byte in either direction."""
STREAM_LINGER_SECONDS: Final = 10.0
"""How long a client may take to read the end of a session and to close it."""
STREAM_READ_BYTES: Final = 256 * KIB
"""Read from a connection at once; what a slow receiver does not take of it is kept, and nothing more is read meanwhile."""
STREAM_FRAME_BYTES: Final = 128 * KIB
"""The largest piece of output sent at once."""
STREAM_ERROR_BYTES: Final = 4 * KIB
STREAM_RESIZE_BYTES: Final = 4 * KIB
"""One JSON document of a terminal's size."""
SPDY_CONTROL_BYTES: Final = 64 * KIB
SPDY_HEADER_BYTES: Final = 64 * KIB
"""Headers of one stream, decompressed."""
SPDY_HEADERS: Final = 100
SPDY_STREAMS: Final = 2048
"""Open at once in one connection."""
FORWARD_PORTS: Final = 128
"""Ports of one port-forward session that names them at its start."""
FORWARD_CONNECT_SECONDS: Final = 10.0
FORWARD_HALF_SECONDS: Final = 60.0
"""A forwarded connection that one side has ended and on which nothing moves."""
FORWARD_PAIR_SECONDS: Final = 30.0
"""From the first to the second of the two streams of a forwarded connection."""
FORWARD_KEPT_BYTES: Final = 256 * KIB
"""What a forwarded connection's receiver has not taken yet; with more the client is not read."""
COPY_DEPTH: Final = 200
"""Directories below each other that `orlop cp` follows; each costs it an open fd."""

# OCI documents that describe a container.
RUNTIME_SPEC_BYTES: Final = 8 * MIB
SECCOMP_PROFILE_BYTES: Final = 1 * MIB
CDI_SPEC_BYTES: Final = 1 * MIB
CDI_SPEC_FILES: Final = 256
CDI_DEVICES: Final = 4096
"""Of one document."""
CDI_DEVICES_ASKED: Final = 256
"""By one container."""
SECCOMP_PROFILES_CACHED: Final = 256

# Plans and the monitor's socket.
PLAN_BYTES: Final = 8 * MIB
PLAN_OPS: Final = 8192
MONITOR_MESSAGE_BYTES: Final = 64 * KIB
MONITOR_FDS: Final = 64
MONITOR_REPLY_SECONDS: Final = 30.0
EXIT_RECORD_BYTES: Final = 4 * KIB

# Requests to registries.
REGISTRY_CONNECT_SECONDS: Final = 15.0
REGISTRY_PROGRESS_SECONDS: Final = 60.0
"""Without a byte of an answer: the request is given up, and tried again."""
REGISTRY_ATTEMPTS: Final = 5
"""One after the other without progress."""
REGISTRY_RETRY_AFTER_SECONDS: Final = 30.0
"""The longest Retry-After that is obeyed."""
BLOB_RANGE_BYTES: Final = 16 * MIB
BLOB_CONNECTIONS: Final = 3
"""For one blob that is larger than two ranges."""
LAYER_DOWNLOADS: Final = 6
"""Layers that are downloaded at the same time by the node."""
ERROR_BODY_BYTES: Final = 4 * KIB
INGEST_KEEP_SECONDS: Final = 7 * 86400.0
"""A download that nobody has continued for so long is removed at start."""
# Networks.
HOSTS_FILE_BYTES: Final = 1 * MIB
"""The host's own /etc/hosts and /etc/resolv.conf, copied into pods."""
CNI_CONFIG_BYTES: Final = 1 * MIB
CNI_OUTPUT_BYTES: Final = 1 * MIB
CNI_ADD_SECONDS: Final = 120.0
CNI_DEL_SECONDS: Final = 60.0
CNI_CHECK_SECONDS: Final = 30.0
CNI_STATUS_SECONDS: Final = 10.0
CNI_GC_SECONDS: Final = 20.0
"""At the start, before anybody is served."""

# NRI plugins.
TTRPC_MESSAGE_BYTES: Final = 4 * MIB
"""What the published implementation takes; the first byte of a longer frame could not be told from noise."""
NRI_REGISTRATION_SECONDS: Final = 5.0
"""From a plugin's connection to its registration; and for all of its synchronization. Configurable."""
NRI_REQUEST_SECONDS: Final = 2.0
"""For a plugin's answer to any other call. Configurable."""
NRI_CALLS_AT_ONCE: Final = 64
"""Calls of one plugin that are being answered."""
NRI_UNREAD_BYTES: Final = 8 * MIB
"""Answers that a plugin has not read; beyond that it is cut off."""
NRI_PLUGINS: Final = 64
"""Plugins connected at once, with those that have not registered yet."""
NRI_CONFIG_BYTES: Final = 1 * MIB
"""A plugin's configuration file; it has to fit into one message."""
NRI_EVICT_GRACE_SECONDS: Final = 10.0
"""Between stop signal and SIGKILL for a container that a plugin evicts."""

# Programs of other OCI runtimes.
OCI_PROGRAM_OUTPUT_BYTES: Final = 256 * KIB
"""Of --version and features."""
OCI_PROGRAM_LOG_BYTES: Final = 64 * KIB
"""The end of its log is read; what stands before is not."""
OCI_PROGRAM_REASON_CHARACTERS: Final = 1024
OCI_PROGRAM_SECONDS: Final = 30.0
OCI_PROBE_SECONDS: Final = 10.0
