"""The log of a cell: a function of what was printed, safe to show, and bounded."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from harness.executors import logs
from harness.executors.logs import LogWriter


def log_of(path: Path, chunks: Iterable[bytes]) -> str:
    writer = LogWriter(path)
    for chunk in chunks:
        writer.feed(chunk)
    writer.close()
    return path.read_text()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.mark.parametrize(
    ("printed", "log"),
    [
        (b"one\ntwo", "one\ntwo\n"),
        (b"", ""),
        (b"a\n\nb\r\n", "a\n\nb\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain \x1b]8;;http://x\x1b\\link", "red plain link\n"),
        (b"\x1b\x1b[m[31m\x1b]unended", "[31munended\n"),
        (b"bell\x07 back\x08 nul\x00 del\x7f \xc2\x9b31m8-bit\tcaf\xc3\xa9", "bell back nul del 8-bit\tcafé\n"),
        ("left\u202eright\u2028one line".encode(), "leftrightone line\n"),
        (b"\xff\x9b", "\ufffd\ufffd\n"),
        (b" 10%\r 50%\r100%\nnext", "100%\nnext\n"),
        (b" 10%\r 99%\r", " 99%\n"),
        (b"done\r\r\n", "done\n"),
    ],
)
def test_what_stands_in_the_log(path: Path, printed: bytes, log: str) -> None:
    assert log_of(path, [printed]) == log


def test_a_long_line_becomes_several(path: Path) -> None:
    log = log_of(path, [b"x" * 10_000, b"\n", b"y" * logs.LINE_CHARS, b"\nend"])
    assert [len(line) for line in log.splitlines()] == [4096, 4096, 1808, 4096, 3]


def test_lines_are_there_at_once(path: Path) -> None:
    writer = LogWriter(path)
    writer.feed(b"first\nsec")
    assert path.read_text() == "first\n"
    writer.close()
    writer.close()
    assert path.read_text() == "first\nsec\n"


def cuts(data: bytes, random_: random.Random) -> Iterator[bytes]:
    while data:
        size = random_.choice((1, 2, 3, 7, 40, 300))
        yield data[:size]
        data = data[size:]


@pytest.mark.parametrize("seed", range(40))
def test_the_same_log_wherever_it_is_cut(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEAD_BYTES": 400, "TAIL_CHARS": 150, "LINE_CHARS": 20, "SCANNED_CHARS": 900}.items():
        monkeypatch.setattr(logs, name, value)
    random_ = random.Random(seed)
    pieces = (
        b"\n", b"\r", b"\r\n", b"\x1b[31m", b"\x1b]0;t\x07", "é€😀".encode(), b"\xff", b"abc ", b"x" * 33, b"\xe2",
    )  # fmt: skip
    data = b"".join(random_.choices(pieces, k=random_.choice((10, 100, 600))))
    whole = log_of(tmp_path / "whole", [data])
    assert log_of(tmp_path / "cut", cuts(data, random_)) == whole
    assert log_of(tmp_path / "bytes", (data[i : i + 1] for i in range(len(data)))) == whole
    assert len(whole) < 400 + 400
    assert all(len(line) <= 80 for line in whole.splitlines())


def test_too_much_keeps_both_ends_and_says_how_much_is_missing(path: Path) -> None:
    lines = [b"line %07d of many\n" % i for i in range(1_000_000)]
    log = log_of(path, (b"".join(lines[i : i + 4000]) for i in range(0, len(lines), 4000))).splitlines()
    assert path.stat().st_size < logs.HEAD_BYTES + 2 * logs.TAIL_CHARS
    assert (log[0], log[-1]) == ("line 0000000 of many", "line 0999999 of many")
    [notice] = [line for line in log if "left out" in line]
    missing = len(lines) - (len(log) - 1)
    assert notice == f"[... {missing * len(lines[0]):,} characters of output are left out here ...]"


@pytest.mark.parametrize("flood", [b"x", b"\n", b"\r", b"x\r", b"\x1b["])
def test_a_flood_needs_little_memory_and_disk(path: Path, flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "HEAD_BYTES", 2**20)
    monkeypatch.setattr(logs, "SCANNED_CHARS", 2**21)
    chunk = flood * (2**16 // len(flood))
    tracemalloc.start()
    log_of(path, (chunk for _ in range(1600)))  # 100 MB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert path.stat().st_size < 4 * 2**20


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_disk_that_takes_no_more_does_not_stop_the_stream() -> None:
    writer = LogWriter(Path("/dev/full"))
    writer.feed(b"one\n")
    writer.feed(b"two\n")
    writer.close()
