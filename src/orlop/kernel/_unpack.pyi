"""Types of the extension module native/unpackmodule.c."""

from typing_extensions import Buffer

class UnpackError(Exception):
    args: tuple[str, int, str, str]

class Unpacker:
    stream_bytes: int
    file_bytes: int
    entries: int
    whiteouts: int
    def __new__(
        cls,
        root_fd: int,
        *,
        stream_bytes: int,
        entries: int,
        path_bytes: int,
        pax_bytes: int,
        xattr_bytes: int,
    ) -> Unpacker: ...
    def feed(self, data: Buffer, /) -> None: ...
    def finish(self) -> list[str]: ...
    def close(self) -> None: ...

def own_umask() -> None: ...
def remove_tree(parent_fd: int, name: str, /) -> None: ...
