"""The dispatcher: words, exit codes, errors in words, and what importing costs."""

import subprocess
import sys

import pytest

from orlop.cli.__main__ import main, word_parser
from orlop.cli.doctor import handler_findings
from orlop.cli.words import WORDS


def test_unknown_word_and_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["imgaes"])
    assert ended.value.code == 125
    assert "did you mean 'images'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["ps", "--nope"])
    assert ended.value.code == 125


def test_no_daemon(tmp_path, capsys):
    address = f"unix://{tmp_path}/none.sock"
    assert main(["--address", address, "ps"]) == 1
    assert capsys.readouterr().err == f"orlop ps: no orlopd answers at {address}: is it running?\n"
    assert main(["--address", address, "run", "busybox"]) == 125
    assert main(["--address", address, "version"]) == 1


@pytest.mark.parametrize("word", WORDS)
def test_every_word_has_help(word, capsys):
    with pytest.raises(SystemExit) as ended:
        word_parser(word).parse_args(["--help"])
    assert ended.value.code == 0


def test_help_imports_nothing_heavy():
    probe = "import sys; from orlop.cli.__main__ import main; main(['help']); print(sorted({'grpc', 'rich', 'google'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_the_doctor_says_which_handlers_cannot_be_used() -> None:
    found = handler_findings(
        {
            "orlop": {"type": "orlop", "version": "1"},
            "crun": {"type": "oci", "path": "/usr/bin/crun", "version": "crun 1.8.1", "unavailable": ""},
            "kata": {"type": "oci", "path": "/x", "version": "", "unavailable": "/x: does not exist"},
        }
    )
    assert [(each["name"], each["verdict"], each["reason"]) for each in found] == [
        ("handler orlop", "ok", "1"),
        ("handler crun", "ok", "/usr/bin/crun crun 1.8.1"),
        ("handler kata", "limited", "/x: does not exist"),
    ]
    assert found[2]["meaning"] and not found[1]["meaning"]
