"""A folder that is whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import InputError, SetupError
from harness.new_folder import becoming, new_folder


def test_a_new_or_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert new_folder(tmp_path / "empty") == new_folder(tmp_path / "link") == tmp_path / "empty"
    assert new_folder(tmp_path / "a/b") == tmp_path / "a/b"


def test_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for folder, words in (
        (tmp_path, "you are in"),
        (tmp_path / "file", "not a folder"),
        (tmp_path.parent, "not empty"),
    ):
        with pytest.raises(InputError, match=words):
            new_folder(folder)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("to", ["~nobody-of-that-name/x", "circle/x"])
def test_what_leads_nowhere(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(InputError, match="leads nowhere"):
        new_folder(Path(to))


def fill(folder: Path) -> None:
    with becoming(new_folder(folder)) as made:
        (made / "config.json").write_text("{}")
        (made / "weights").write_text("w")


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["model", "m" * 255], ids=["short", "as long as a name may be"])
@pytest.mark.parametrize("is_there", [False, True])
def test_it_is_whole(name: str, is_there: bool, tmp_path: Path) -> None:
    folder = tmp_path / name
    if is_there:
        folder.mkdir()
    fill(folder)
    assert content(folder) == ["config.json", "weights"]
    assert content(tmp_path) == [name]


def test_a_folder_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point is not renamed onto, and what is beside it may be another disk, or closed: all is done within."""
    mount = tmp_path / "mount"
    mount.mkdir()
    rename = os.rename

    def checked(source: Path, target: Path) -> None:
        assert mount in Path(source).parents and mount in Path(target).parents
        order.append(Path(target).name)
        rename(source, target)

    order: list[str] = []
    monkeypatch.setattr(os, "rename", checked)
    monkeypatch.setattr(os, "replace", checked)
    fill(mount)
    assert content(mount) == ["config.json", "weights"]
    assert order[-1] == "config.json", "without it nobody takes the folder for a model"


def test_a_real_mount_point(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    script = f'mount -t tmpfs none mount && {sys.executable} -c "{FILL}" mount && ls mount'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, env=HERE, capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount can be made here: {done.stderr.strip()}")
    assert (done.stdout.split(), done.stderr) == (["config.json", "weights"], "")


FILL = "import sys; from pathlib import Path; from tests.harness.test_new_folder import fill; fill(Path(sys.argv[1]))"
HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("given", ["a", "a/b/c"])
def test_a_failure_leaves_nothing(given: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), becoming(tmp_path / given) as made:
        (made / "weights").write_text("w")
        raise ValueError("no")
    assert content(tmp_path) == []


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(ValueError, match="no"), becoming(tmp_path / "a/b"):
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), becoming(tmp_path / "a/c/d"):
        (tmp_path / "a/c/mine").touch()
        raise ValueError("no")
    assert content(tmp_path / "a") == ["b", "c"]
    assert content(tmp_path / "a/c") == ["mine"]


@pytest.mark.parametrize("is_there", [False, True])
def test_what_is_filled_meanwhile_stays(is_there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "to"
    if is_there:
        folder.mkdir()
    with pytest.raises(SetupError), becoming(folder) as made:
        (made / "config.json").write_text("ours")
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("mine")
    assert content(tmp_path) == ["to"]
    assert content(folder) == ["config.json"]
    assert (folder / "config.json").read_text() == "mine"


HOLD = """
import sys, time
from pathlib import Path
from harness.new_folder import becoming

with becoming(Path(sys.argv[1])) as made:
    (made / "weights").write_text("w")
    print(made, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_what_a_killed_one_left_goes_and_what_is_in_use_stays(is_there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "to"
    if is_there:
        folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], env=HERE, stdout=subprocess.PIPE, text=True
    ) as maker:
        try:
            assert maker.stdout is not None
            made = Path(maker.stdout.readline().strip())
            assert (made / "weights").exists()
            if is_there:
                with pytest.raises(InputError, match="not empty"):
                    new_folder(folder)
            fill(tmp_path / "another")
            assert (made / "weights").exists(), "its maker lives"
        finally:
            maker.send_signal(signal.SIGKILL)
    assert (made / "weights").exists()
    fill(folder)
    assert content(tmp_path) == ["another", "to"]
    assert content(folder) == ["config.json", "weights"]


def test_what_is_none_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / ".moodbench-0a1b2c3d.unfinished").mkdir()  # no lock: who knows
    (tmp_path / ".moodbench-mine").mkdir()
    os.mkfifo(tmp_path / ".moodbench-0a1b2c3d.unfinished/.lock")
    fill(tmp_path / "to")
    assert content(tmp_path) == [".moodbench-0a1b2c3d.unfinished", ".moodbench-mine", "to"]
