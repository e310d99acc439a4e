"""Folders; containers are in tests/test_containers.py."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from harness import images
from harness.clean import find_leftovers
from harness.errors import InputError, SetupError
from harness.executors import docker
from harness.executors.containers import StaleContainer
from harness.scratch import LOCK, scratch
from tests.support import World, reviews


@pytest.fixture
def world(tmp_path: Path) -> World:
    """No engine answers here."""
    (tmp_path / "home").mkdir()
    return World(tmp_path)


def abandoned(world: World) -> list[Path]:
    """A scratch folder and a run folder whose hosts are gone."""
    left = [world.folder / "cache" / "scratch" / "4711-0123abcd", world.folder / "results" / "never-began"]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / LOCK).touch()
    (left[0] / "model-0.json").write_text("{}")
    return left


NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


def test_what_killed_hosts_left_is_listed_and_removed(world: World) -> None:
    left = abandoned(world)
    run = world.folder / "results" / "real"
    run.mkdir()
    for name in (".lock", "run.json"):
        (run / name).touch()
    outcome = world.moodbench("clean", "--yes", **NO_ENGINE)
    assert outcome.code == 0, outcome.err
    assert all(str(folder.name) in outcome.out for folder in left)
    assert "Removed 2 of 2." in outcome.out
    assert "containers were not looked for" in outcome.err
    assert not any(folder.exists() for folder in left)
    assert (run / "run.json").exists()
    assert "Nothing is left over." in world.moodbench("clean", **NO_ENGINE).out


def test_it_asks_first(world: World) -> None:
    left = abandoned(world)
    outcome = world.moodbench("clean", **NO_ENGINE)  # standard input is closed: nobody says yes
    assert outcome.code != 0
    assert all(folder.exists() for folder in left)


def test_what_is_in_use_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    run = tmp_path / "results" / "preparing"
    run.mkdir(parents=True)
    with (run / ".lock").open("w") as lock, scratch() as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert find_leftovers(tmp_path / "results").found == ()
    assert not folder.exists()
    assert [leftover.name for leftover in find_leftovers(tmp_path / "results").found] == [str(run)]


def test_an_engine_killed_while_it_prepared_leaves_what_is_removed(world: World) -> None:
    world.write("reviews.csv", reviews())
    started = world.moodbench("run", "--data", "reviews.csv", "--models", "majority", "--run", "night", "--detach")
    assert started.code == 0, started.err
    run = world.run_folder("night")
    assert "run that never began" not in world.moodbench("clean", **NO_ENGINE).out
    assert world.end_engines() == ["night"]
    left = {path.name for path in run.folder.iterdir()}
    assert left >= {".lock", "engine.log", "engine.sock", "journal.jsonl", "request.json"}
    assert "run.json" not in left
    outcome = world.moodbench("clean", "--yes", **NO_ENGINE)
    assert f"run that never began: {Path('results/night')}" in outcome.out
    assert outcome.code == 0, outcome.err
    assert not run.folder.exists()


@pytest.mark.parametrize("kept", ["run.json", "notes.txt", "cells"])
def test_what_no_engine_laid_there_keeps_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    run = tmp_path / "results" / "r"
    run.mkdir(parents=True)
    laid = {"request.json", ".request.json.0123456789abcdef.tmp", "engine.log"}
    for name in (LOCK, *laid):
        (run / name).touch()
    (found,) = find_leftovers(tmp_path / "results").found
    (run / kept).mkdir()
    assert find_leftovers(tmp_path / "results").found == ()
    with pytest.raises(InputError, match="more than an engine leaves"):
        found.remove()
    assert {path.name for path in run.iterdir()} - {LOCK} == {kept, *laid}
    (run / kept).rmdir()
    found.remove()
    assert not run.exists()


def test_an_engine_that_is_being_started_has_no_lock_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    run = tmp_path / "results" / "r"
    run.mkdir(parents=True)
    (run / "engine.log").touch()
    assert find_leftovers(tmp_path / "results").found == ()
    os.utime(run, (1.0, 1.0))
    (found,) = find_leftovers(tmp_path / "results").found
    found.remove()
    assert not run.exists()


def test_a_run_that_begins_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the list and the answer time passes."""
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    begun, held = tmp_path / "results" / "begun", tmp_path / "results" / "held"
    for run in (begun, held):
        run.mkdir(parents=True)
        (run / LOCK).touch()
    leftovers = find_leftovers(tmp_path / "results").found
    (begun / "run.json").write_text("{}")
    with (held / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in leftovers:
            with pytest.raises(InputError):
                leftover.remove()
    assert (begun / "run.json").exists()
    assert (held / LOCK).exists()


def test_a_container_that_stays_is_not_counted_as_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def close(self) -> None:
            pass

    left = StaleContainer(id="1", name="moodbench-x", run="r", cell="c", state="dead")
    monkeypatch.setattr(images, "connect", Client)
    monkeypatch.setattr(docker, "stale_containers", lambda client: [left])
    monkeypatch.setattr(docker, "remove_container", lambda client, found: False)
    (leftover,) = [found for found in find_leftovers(Path("nowhere")).found if found.what == "container"]
    with pytest.raises(SetupError, match="did not remove it"):
        leftover.remove()
