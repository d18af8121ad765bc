"""How lists are shown: as a table, as JSON, or by a template with the fields that docker users know.

A template is Go's in its simplest form: ``{{.ID}}``, ``{{.State.Pid}}``, ``{{json .}}``, ``{{json .Labels}}``, the escapes \\t and \\n,
and ``table`` before it for a heading and columns. Anything else in braces is refused by name. Test: tests/unit/cli/test_show.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orlop.base.errors import InvalidArgument

_FIELD = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_EXPRESSION = re.compile(r"(json\s+|upper\s+|lower\s+)?\.([\w.\-]*)")


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", default="table", metavar="FORMAT", help="table, json, or a template such as '{{.ID}}\\t{{.Names}}'"
    )


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], form: str) -> None:
    """Print rows; ``columns`` maps a heading to the field under it."""
    if form == "json":
        print(json.dumps(list(rows), indent=2, ensure_ascii=False))
    elif form == "table":
        _table(list(columns), [[_text(row[name]) for name in columns.values()] for row in rows])
    elif form.startswith("table "):
        parts = unescape(form.removeprefix("table ")).split("\t")
        headings = [_FIELD.sub(lambda match: _heading(match[1], columns), part) for part in parts]
        _table(headings, [[render(part, row) for part in parts] for row in rows])
    else:
        template = unescape(form)
        for row in rows:
            print(render(template, row))


def unescape(template: str) -> str:
    return template.replace("\\t", "\t").replace("\\n", "\n")


def render(template: str, value: Any) -> str:
    """Return the template with the fields of ``value``. Raises InvalidArgument for a field or a form that there is not."""

    def field(match: re.Match[str]) -> str:
        expression = _EXPRESSION.fullmatch(match[1])
        if expression is None:
            raise InvalidArgument(f"template: {match[0]} is not of the form {{{{.Field}}}} or {{{{json .Field}}}}")
        found = look_up(value, expression[2])
        function = (expression[1] or "").strip()
        if function == "json":
            return json.dumps(found, ensure_ascii=False)
        text = _text(found)
        return text.upper() if function == "upper" else text.lower() if function == "lower" else text

    return _FIELD.sub(field, template)


def look_up(value: Any, path: str) -> Any:
    """Return the field at a dotted path; names are compared without case and underscores, as Go and JSON spell them differently."""
    for name in filter(None, path.split(".")):
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"template: there is no field {path!r}")
        wanted = _plain(name)
        for key, item in value.items():
            if key == name or _plain(key) == wanted:
                value = item
                break
        else:
            known = ", ".join(sorted(map(str, value)))
            raise InvalidArgument(f"template: there is no field {name!r}; there are {known}")
    return value


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _heading(expression: str, columns: Mapping[str, str]) -> str:
    name = expression.rpartition(".")[2]
    for heading, field in columns.items():
        if _plain(field) == _plain(name):
            return heading
    return name.upper()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [list(headings), *(list(map(_printable, row)) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headings))]
    for line in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


def _printable(text: str) -> str:
    """Names and labels come from others: control characters would move the cursor of whoever reads the table."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)
