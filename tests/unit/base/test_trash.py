import os
import shutil
from pathlib import Path

from orlop.base.trash import Trash


def test_out_of_sight_at_once(tmp_path: Path) -> None:
    (tmp_path / "trash").mkdir()

    def remove(parent: int, name: str) -> None:
        shutil.rmtree(f"/proc/self/fd/{parent}/{name}")

    trash = Trash(tmp_path / "trash", remove)
    (tmp_path / "d" / "e").mkdir(parents=True)
    assert trash.discard(tmp_path / "d") and not (tmp_path / "d").exists()
    assert not trash.discard(tmp_path / "d")
    trash.drain()
    (tmp_path / "trash" / "left").mkdir()
    trash.empty()
    trash.drain()
    assert os.listdir(tmp_path / "trash") == [] and trash.statistics() == {"trash_pending": 0}
    trash.close()
