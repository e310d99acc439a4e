"""A run whose engine, cells and containers are killed again and again ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
import pytest

from harness.control import engine_pid, is_alive
from harness.executors.containers import fresh_name
from runner.contract import Phase
from tests.support import World, reviews, wait_until
from tests.survival import TINY, Site, journal_is_whole, kill, predictions, suite

Victim = Literal["engine", "cell", "child"]  # child: of the engine; a cell, a question, or the guard

VICTIMS: tuple[Victim, ...] = (*["engine"] * 9, *["cell"] * 9, *["child"] * 4)
MOMENTS: tuple[Phase | None, ...] = ("train", "train", "train", "train", "score", "time", None, None)
MOMENT_S = 60.0  # so long a moment or a victim is waited for
LEAST_KILLS, LEAST_OF_ENGINES = 20, 8
JOBS = 2
FINISHED_S = 420.0
ROUNDS = 6  # of an engine that is left alone: a cell may have been killed too often for the one before


def small_model(folder: Path) -> str:
    """A pretrained model's folder: two layers with random weights, and a tokenizer."""
    import torch
    from transformers import AutoModel

    from runner.models.tokenizer import learn_wordpiece
    from tests.runner.models.small_models import TEXTS, small_config

    tokenizer = learn_wordpiece([*TEXTS, *reviews().splitlines()], 200)
    torch.manual_seed(0)
    AutoModel.from_config(small_config("bert", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # cells in containers of root are nobody in particular
    return str(folder)


def hard_reviews(rows: int) -> str:
    """Texts whose class no model learns at once, so that the best weights are found late in training."""
    words = reviews().replace(",", " ").replace('"', " ").split()[1:]
    picked = random.Random(0)
    lines = ["review,sentiment"]
    for _ in range(rows):
        text = picked.choices(words, k=12)
        is_good = sum(map(len, text)) + picked.gauss(0.0, 4.0) > 12 * sum(map(len, words)) / len(words)
        lines.append(f"{' '.join(text)},{'good' if is_good else 'bad'}")
    return "\n".join(lines) + "\n"


@pytest.fixture(params=["native", pytest.param("docker", marks=pytest.mark.docker)])
def calm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Twelve cells, finished without trouble."""
    client = None
    if request.param == "docker":
        client = request.getfixturevalue("docker_client")
        request.getfixturevalue("cpu_image")
    world = World(tmp_path)
    world.write("reviews.csv", hard_reviews(300))
    models = [{"alias": "small", "path": small_model(tmp_path / "small")}, TINY, "tfidf-logreg", "majority"]
    world.write("suite.yaml", suite(models, [1, 2], ["lora", "full", "frozen"], epochs=16, learning_rate=3e-3))
    site = Site(world, fresh_name("calm"), client)
    try:
        start(site, request.param)
        wait_until(lambda: not is_alive(site.folder), FINISHED_S)
        assert len(site.finished()) == 12, site.events("cell_failed")
        yield site
    finally:
        site.clear()


def start(site: Site, executor: str) -> None:
    options = ("--executor", executor, "--jobs", str(JOBS), "--no-reuse", "--detach")
    outcome = site.world.moodbench("run", "suite.yaml", "--run", site.run, *options)
    assert outcome.code == 0, outcome.err


@dataclass
class Chaos:
    """Kills, one after another, at moments that a seed decides as far as it can; the engine is started again each time.
    Kills keep pace with the cells, so that there is something left to kill until the last."""

    site: Site
    total: int
    seed: int
    killed: list[Victim] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._victims = self._random.sample(VICTIMS, len(VICTIMS))

    def rage(self) -> None:
        for victim in self._victims:
            self._wait_for_a_moment()
            self._kill(victim)

    def keep_going(self) -> bool:
        """Also where the engine has ended by itself, because of a cell that was killed too often; whether there is
        anything left to do."""
        if len(self.site.finished()) == self.total:
            return False
        if not is_alive(self.site.folder):
            outcome = self.site.world.moodbench("resume", self.site.run, "--detach")
            assert outcome.code == 0, outcome.err
        return True

    def _wait_for_a_moment(self) -> None:
        phase = self._random.choice(MOMENTS)
        pause_s = self._random.choice((0.05, 0.3, 2.0)) * self._random.random()
        if (len(self.site.finished()) + JOBS) / self.total > len(self.killed) / len(VICTIMS):
            return
        deadline = time.monotonic() + MOMENT_S
        while phase is not None and time.monotonic() < deadline and not self._is_in(phase):
            self.keep_going()
            time.sleep(0.02)
        time.sleep(pause_s if phase is None else pause_s / 10)

    def _is_in(self, phase: Phase) -> bool:
        return self.site.has_saved() if phase == "train" else phase in self.site.phases().values()

    def _kill(self, victim: Victim) -> None:
        """As soon as there is one."""
        kill_one = {"engine": self._kill_engine, "cell": self._kill_cell, "child": self._kill_child}[victim]
        deadline = time.monotonic() + MOMENT_S
        while self.keep_going() and time.monotonic() < deadline:
            if kill_one():
                self.killed.append(victim)
                return
            time.sleep(0.02)

    def _kill_engine(self) -> bool:
        pid = engine_pid(self.site.folder)
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(self.site.folder))
        return True

    def _kill_child(self) -> bool:
        pid = engine_pid(self.site.folder)
        with suppress(psutil.NoSuchProcess):  # the engine has just ended
            children = psutil.Process(pid).children(recursive=True) if pid is not None else []
            return bool(children) and kill(self._random.choice(children))
        return False

    def _kill_cell(self) -> bool:
        if self.site.client is None:
            cells = self.site.cells()
            return bool(cells) and kill(self._random.choice(cells))
        import docker.errors

        containers = self.site.containers("running") + self.site.containers("paused")
        with suppress(docker.errors.APIError):  # it has just ended
            if containers:
                self.site.client.api.kill(self._random.choice(containers)["Id"])
                return True
        return False


@pytest.mark.chaos
def test_kills_at_any_moment_change_nothing(calm: Site) -> None:
    expected = predictions(calm)
    site = Site(calm.world, fresh_name("chaos"), calm.client)
    try:
        start(site, "docker" if calm.client else "native")
        seed = int(os.environ.get("MOODBENCH_CHAOS_SEED", "4"))
        chaos = Chaos(site, len(expected), seed)
        chaos.rage()
        for _ in range(ROUNDS):
            if not chaos.keep_going():
                break
            wait_until(lambda: not is_alive(site.folder), FINISHED_S)
        wait_until(lambda: not is_alive(site.folder))
        site.everything_is_gone()
        assert predictions(site) == expected
        journal_is_whole(site)
        counts = site.world.status(site.run)["cells"]
        assert (counts["total"], counts["done"] + counts["reused"]) == (12, 12)
        assert len(chaos.killed) >= LEAST_KILLS
        assert chaos.killed.count("engine") >= LEAST_OF_ENGINES
        assert len(site.world.attempts(site.run)) > 12
        assert site.resumed_within_training()
    finally:
        site.clear()
