"""Tables, JSON and templates."""

import json

import pytest

from orlop.base.errors import InvalidArgument
from orlop.cli import show

ROWS = [{"ID": "4f2a", "Names": "web", "Labels": {"a": "b"}}, {"ID": "99", "Names": "evil\x1b[2J", "Labels": {}}]
COLUMNS = {"CONTAINER ID": "ID", "NAMES": "Names"}


def test_table_is_aligned_and_harmless(capsys):
    show.show(ROWS, COLUMNS, "table")
    assert capsys.readouterr().out == "CONTAINER ID   NAMES\n4f2a           web\n99             evil?[2J\n"


def test_json(capsys):
    show.show(ROWS, COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS


def test_templates(capsys):
    show.show(ROWS[:1], COLUMNS, "{{.ID}}\\t{{ json .Labels }} {{.Labels.a}} {{upper .Names}}")
    assert capsys.readouterr().out == '4f2a\t{"a": "b"} b WEB\n'
    show.show(ROWS[:1], COLUMNS, "table {{.ID}}\\t{{.Names}}")
    assert capsys.readouterr().out == "CONTAINER ID   NAMES\n4f2a           web\n"


@pytest.mark.parametrize("template", ["{{.Nope}}", "{{range .}}", "{{.ID.x}}"])
def test_templates_that_are_refused(template):
    with pytest.raises(InvalidArgument, match="template"):
        show.render(template, ROWS[0])


def test_names_are_compared_as_go_and_protobuf_spell_them():
    assert show.look_up({"exit_code": 3}, "ExitCode") == 3
