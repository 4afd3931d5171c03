"""What is cleared away before the tests: what an earlier, killed run of them left, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import leftovers
import pytest

CLAIMS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import leftovers
leftovers.MARKS = Path(sys.argv[2])
leftovers.claim("t0a1b2c")
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(leftovers, "MARKS", tmp_path / "marks")
    return tmp_path / "marks"


def test_a_group_is_left_once_its_process_is_killed(marks: Path) -> None:
    words = [sys.executable, "-c", CLAIMS, str(Path(leftovers.__file__).parent), str(marks)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "claimed\n"
        assert leftovers.left() == []  # however long it is at work
        other.kill()
    assert leftovers.left() == ["t0a1b2c"]


def test_a_group_that_was_cleared_away_is_not_left() -> None:
    assert leftovers.left() == []
    leftovers.claim("t0a1b2c")
    assert leftovers.left() == []
    leftovers.release("t0a1b2c")
    assert leftovers.left() == []


def test_what_is_left_is_removed_by_its_label_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    there = {"ps": "c1\nc2\n", "network": "n1\n"}

    def docker(*words: str) -> str:
        asked.append(" ".join(words))
        return there.get(words[0], "")

    monkeypatch.setattr(leftovers, "_docker", docker)
    leftovers.clear()
    assert asked == []
    leftovers.MARKS.mkdir()
    (leftovers.MARKS / "t0a1b2c").touch()
    leftovers.clear()
    assert asked == [
        "ps --all --quiet --filter label=pgherd.group=t0a1b2c", "rm --force --volumes c1 c2",
        "network ls --quiet --filter label=pgherd.group=t0a1b2c", "network rm n1",
    ]  # fmt: skip
    assert leftovers.left() == []
