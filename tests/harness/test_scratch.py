from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import SetupError
from harness.scratch import LOCK, cache_folder, is_held, scratch, stale, sweep


@pytest.mark.parametrize(
    ("own", "base", "folder"),
    [("/own", "/base", "/own"), ("", "/base", "/base/moodbench"), ("", "", "HOME/.cache/moodbench")],
)
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, base: str, folder: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("MOODBENCH_CACHE", own), ("XDG_CACHE_HOME", base)):
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == folder.replace("HOME", str(tmp_path))


def test_a_folder_of_ones_own_that_goes_away() -> None:
    with scratch() as first, scratch() as second:
        assert first != second
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
        assert first.is_relative_to(cache_folder())
        (first / "inner").mkdir()
        (first / "inner" / "file").write_text("x")
    assert not first.exists()
    assert not second.exists()


def test_it_goes_away_when_something_goes_wrong() -> None:
    with pytest.raises(RuntimeError), scratch() as folder:
        raise RuntimeError
    assert not folder.exists()


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(SetupError), scratch():
        pass


def test_what_is_in_use_is_not_swept() -> None:
    with scratch() as folder:
        assert is_held(folder / LOCK)
        assert stale() == []
        sweep()
        assert folder.exists()


def test_what_a_killed_host_left_is_swept() -> None:
    code = """
import os, signal
from harness.scratch import scratch
with scratch() as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folder = Path(killed.stdout.strip())
    assert killed.returncode == -9
    assert folder.is_dir()
    assert not is_held(folder / LOCK)
    assert stale() == [folder]
    sweep()
    assert not folder.exists()
    assert stale() == []


def test_no_lock_file_is_not_held(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "absent")


def test_a_folder_that_is_being_made_is_nobodys_leftover(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another start sweeps between each step of making one: it must not see it before it is held."""
    seen: list[list[Path]] = []
    made: list[Path] = []
    mkdir = Path.mkdir

    def making(self: Path, *arguments: object, **options: object) -> None:
        mkdir(self, *arguments, **options)  # type: ignore[arg-type]
        if self.parent.name == "scratch":
            made.append(self)
            seen.append(stale())

    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "mkdir", making)
    with scratch() as folder:
        assert made and made != [folder], "it gets its name when its lock is held"
        assert stale() == []
        sweep()
        assert folder.exists()
    assert seen and not any(seen)
