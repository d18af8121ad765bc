"""Log lines: text and JSON, extras, line breaks from outside."""

import json
import logging
import sys

from orlop.daemon.logs import JsonFormatter, TextFormatter


def record(message, **extra):
    made = logging.LogRecord("orlop.cri.listener", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_text_is_one_line():
    line = TextFormatter(priorities=False).format(record("name=a\nforged", ms=2.5))
    assert line.endswith(" warning cri.listener: name=a\\nforged ms=2.5")
    assert TextFormatter(priorities=True).format(record("x")) == "<4>cri.listener: x"


def test_json_has_fields_and_traceback():
    made = record("broken", rpc="Status")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    fields = json.loads(JsonFormatter().format(made))
    assert fields["rpc"] == "Status"
    assert fields["level"] == "warning"
    assert "ValueError: why" in fields["traceback"]
