"""orlop's command line: finds the word, imports its module, prints errors, turns them into exit codes.

Each word's module has ``add_arguments(parser)`` and ``run(options) -> int``. Wrong usage exits 125 as docker does, every other error 1;
`run` and `exec` have rules of their own. Test: tests/unit/cli/test_main.py.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from orlop.cli.words import WORDS

EXIT_ERROR = 1
EXIT_USAGE = 125
EXIT_INTERRUPTED = 130
DEFAULT_ADDRESS = "unix:///run/orlop/orlop.sock"


class Parser(argparse.ArgumentParser):
    """Exits 125 for wrong usage, and says how to get help."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nsee '{self.prog} --help'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    top = top_parser()
    options, rest = top.parse_known_args(given[: _word_position(given)])
    if rest:
        top.error(f"unknown option {rest[0]}")
    if options.version:
        from orlop import __version__

        print(f"orlop {__version__}")
        return 0
    words = given[_word_position(given) :]
    if not words or words[0] == "help":
        print(top.format_help(), end="")
        return 0
    if words[0] not in WORDS:
        import difflib

        close = difflib.get_close_matches(words[0], WORDS, n=1)
        top.error(f"unknown word {words[0]!r}" + (f", did you mean {close[0]!r}?" if close else ""))
    return run_word(words[0], words[1:], options.address)


def top_parser() -> Parser:
    """Return the parser of what stands before the word."""
    lines = "\n".join(f"  {word:<12} {summary}" for word, (_, summary) in WORDS.items())
    parser = Parser(
        prog="orlop",
        usage="orlop [--address ADDRESS] WORD ...",
        description="Run containers on this machine.",
        epilog=f"words:\n{lines}\n\n'orlop WORD --help' says more about a word.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("ORLOP_ADDRESS", DEFAULT_ADDRESS),
        help=f"the daemon's socket (or the environment's ORLOP_ADDRESS; default {DEFAULT_ADDRESS})",
    )
    parser.add_argument("--version", "-V", action="store_true", help="print this program's version")
    return parser


def word_parser(word: str) -> Parser:
    """Return the parser of one word; its module is imported."""
    module_name, summary = WORDS[word]
    module = importlib.import_module(f"orlop.cli.{module_name}")
    parser = Parser(
        prog=f"orlop {word}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # -h is --hostname in `run`, as docker users expect.
        add_help=False,
    )
    parser.add_argument("--help", action="help", help="show this help")
    module.add_arguments(parser)
    parser.set_defaults(act=module.run, usage_exit=getattr(module, "EXIT_ERROR", EXIT_ERROR))
    return parser


def run_word(word: str, arguments: Sequence[str], address: str) -> int:
    from orlop.base.errors import OrlopError

    options = word_parser(word).parse_args(arguments)
    options.address = address
    try:
        code: int = options.act(options)
        sys.stdout.flush()
    except OrlopError as error:
        print(f"orlop {word}: {error}", file=sys.stderr)
        return int(options.usage_exit)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `orlop ps | head`: the reader has what it wanted. Nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _word_position(given: Sequence[str]) -> int:
    """Return the index of the word: the first argument that is not an option of the top, nor its value."""
    index = 0
    while index < len(given) and given[index].startswith("-"):
        index += 2 if given[index] == "--address" else 1
    return index


if __name__ == "__main__":
    sys.exit(main())
