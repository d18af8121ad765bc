"""docs/cli.md says what --help says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_what_the_program_says():
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate-cli-docs", "--print"], capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "docs" / "cli.md").read_text(), "run scripts/generate-cli-docs"
