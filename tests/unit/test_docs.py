"""Every command that the pages name exists: make targets, orlopd's flags, orlop's words and their options, scripts, links."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.cli.__main__ import top_parser, word_parser
from orlop.cli.words import WORDS
from orlop.daemon.__main__ import parser as daemon_parser

TOP = Path(__file__).resolve().parents[2]
# docs/cli.md is made from --help, and compared with it in tests/unit/cli/test_docs.py.
PAGES = sorted({*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")} - {TOP / "docs" / "cli.md"})
FENCE = re.compile(r"^\s*```(\w*)\n(.*?)^\s*```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
SEPARATORS = re.compile(r"&&|\|\||[;|&]")


def commands(text: str) -> Iterator[list[str]]:
    """Words of every command in code, without sudo and assignments; a fence with a language that is not a shell's has none."""
    code = [body for language, body in FENCE.findall(text) if language in ("", "sh", "bash", "shell", "console")]
    code += INLINE.findall(FENCE.sub("", text))
    for line in "\n".join(code).splitlines():
        for part in SEPARATORS.split(line.split(" #", 1)[0]):
            try:
                words = shlex.split(part.removeprefix("$ "))
            except ValueError:  # a quotation mark of prose
                continue
            while words and (words[0] == "sudo" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words.pop(0)
            if words:
                yield words


def refuse_unknown(words: list[str], parser: ArgumentParser, where: str) -> None:
    """Every option up to the first thing that is none must be the parser's."""
    for word in words:
        if not word.startswith("-"):
            return
        option = word.split("=", 1)[0]
        assert option in parser._option_string_actions, f"{where}: {parser.prog} has no option {option}"


def check(words: list[str], where: str) -> bool:
    """Return whether it was one of our commands."""
    program = Path(words[0]).name
    if program == "make" and words[1:2] != ["-C"]:
        targets = TARGET.findall((TOP / "Makefile").read_text())
        for word in words[1:]:
            assert "=" in word or word in targets, f"{where}: make has no target {word!r}"
    elif program == "orlopd":
        refuse_unknown([word for word in words[1:] if word.startswith("-")], daemon_parser(), where)
    elif program == "orlop":
        rest = words[1:]
        if rest and rest[0].startswith("-"):
            refuse_unknown(rest[:1], top_parser(), where)
        elif rest and rest[0].islower():  # not a placeholder
            assert rest[0] in WORDS, f"{where}: orlop has no word {rest[0]!r}"
            refuse_unknown(rest[1:], word_parser(rest[0]), where)
    elif words[0].startswith("scripts/"):
        assert (TOP / words[0]).exists(), f"{where}: {words[0]} does not exist"
    else:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_commands_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        check(words, f"{page.name}: {' '.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.split("#", 1)[0]).exists(), f"{page.name}: {target} leads nowhere"


def test_the_check_sees_what_is_wrong() -> None:
    text = "```\nmake demo   # words\nsudo .venv/bin/orlop run --rm -d x && make nothing\n```\nand `orlopd --nope`, `orlop frob`"
    found = list(commands(text))
    assert [words[0] for words in found] == ["make", ".venv/bin/orlop", "make", "orlopd", "orlop"]
    assert all(check(words, "text") for words in found[:2])
    for words in found[2:]:
        with pytest.raises(AssertionError, match="has no"):
            check(words, "text")


def test_the_readme_was_read() -> None:
    ours = [words for words in commands((TOP / "README.md").read_text()) if check(words, "README.md")]
    assert len(ours) >= 8
