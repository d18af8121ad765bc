"""Where each key of a TOML file stands: tomllib forgets the lines, and an operator needs them.

Not a parser: it runs only over text that tomllib has accepted, and only finds headers, keys and the ends of values. Keys inside an
inline table or an array get the line of the key that the value belongs to. Test: tests/unit/daemon/test_toml_lines.py.
"""

from __future__ import annotations

import re

Key = tuple[str, ...]

_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*""")
_SKIP = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|'
    + r"'''(?:.|\n)*?'{3,5}|"
    + r'"(?:[^"\\\n]|\\.)*"|'
    + r"'[^'\n]*'|#[^\n]*|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Key, int]:
    """Return the line (from 1) on which each table and key is first given."""
    lines: dict[Key, int] = {}
    table: Key = ()
    position = 0
    while position < len(text):
        start = position
        line = text.count("\n", 0, position) + 1
        character = text[position]
        if character in " \t\r\n":
            position += 1
        elif character == "#":
            position = _end_of_line(text, position)
        elif character == "[":
            table, position = _dotted(text, position + (2 if text.startswith("[[", position) else 1))
            lines.setdefault(table, line)
            position = _end_of_line(text, position)
        else:
            key, position = _dotted(text, position)
            for length in range(1, len(key) + 1):
                lines.setdefault(table + key[:length], line)
            position = _end_of_value(text, position)
        if position == start:  # not TOML after all: never loop for ever
            position += 1
    return lines


def _dotted(text: str, position: int) -> tuple[Key, int]:
    parts: list[str] = []
    while (match := _KEY.match(text, position)) is not None:
        basic, literal, bare = match.groups()
        parts.append(next(part for part in (basic, literal, bare) if part is not None))
        position = match.end()
        if not text.startswith(".", position):
            break
        position += 1
    return tuple(parts), position


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _end_of_value(text: str, position: int) -> int:
    """Return the position after the line on which the value that begins here ends."""
    depth = 0
    while position < len(text):
        match = _SKIP.match(text, position)
        if match is not None:
            position = match.end()
            continue
        character = text[position]
        position += 1
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "\n" and depth <= 0:
            return position
    return position
