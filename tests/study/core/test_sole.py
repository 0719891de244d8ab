"""A folder is trained in by one process at a time; who is dead holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from racecar.study.core.errors import StudyError
from racecar.study.core.sole import sole_use

HOLD = """
import sys
from pathlib import Path
from racecar.study.core.sole import sole_use
with sole_use(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_told_who_has_it_and_takes_over_from_the_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        words = f"process {holder.pid} on .* is training in .*choose another --out"
        with pytest.raises(StudyError, match=words), sole_use(tmp_path):
            pass
        holder.kill()
    for _ in range(2):
        with sole_use(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_what_is_made_is_said_and_another_file_of_the_folder_is_free(tmp_path: Path) -> None:
    with sole_use(tmp_path, "making a.png", ".a.png.lock"):
        with pytest.raises(StudyError, match=r"process \d+ on .* is making a\.png: wait for it"):
            sole_use(tmp_path, "making a.png", ".a.png.lock").__enter__()
        with sole_use(tmp_path, "making b.png", ".b.png.lock"):
            pass


@pytest.mark.parametrize("content", ["", "[]", "null", "7", "{", "[" * 100_000, '{"process": "x"}', "\0"])
def test_a_lock_that_says_something_else_of_its_holder_still_holds(tmp_path: Path, content: str) -> None:
    with sole_use(tmp_path):
        (tmp_path / ".lock").write_text(content, encoding="utf-8")
        with pytest.raises(StudyError, match=r"^another process is training in"):
            sole_use(tmp_path).__enter__()
