"""What nvidia-smi says, as it was recorded, and a nvidia-smi of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import gpus
from harness.executors import Gpu
from harness.gpus import (
    GpuState,
    free_mb,
    list_gpus,
    parse_free,
    parse_list,
    parse_processes,
    parse_share,
    parse_throttling,
    state_of,
    visible,
)

FIRST, SECOND = "GPU-5a1b0c7e-8a53-9d1f-2f60-6f0d2c1b3a44", "GPU-77aa12f0-1111-2222-3333-444455556666"
TWO = f"0, {FIRST}, NVIDIA H200, 143771\n1, {SECOND}, NVIDIA A100-SXM4-40GB, 40960\n"


def test_the_list() -> None:
    first, second = parse_list(TWO)
    assert (first.index, first.id, first.name, first.memory_mb) == ("0", FIRST, "NVIDIA H200", 143771)
    assert second.id == SECOND
    [shared] = parse_list(f"0, {FIRST}, NVIDIA GB10, [N/A]\n")  # its memory is the machine's
    assert shared.memory_mb is None


@pytest.mark.parametrize("text", ["", "No devices were found\n", "Failed to initialize NVML: Driver/library version\n"])
def test_no_list(text: str) -> None:
    assert parse_list(text) == ()
    assert parse_free(text) == {}
    assert parse_share(text) is None
    assert parse_processes(text) == frozenset()
    assert parse_throttling(text) == ()


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (None, [FIRST, SECOND]),
        ("1,0", [SECOND, FIRST]),
        (" 1 ", [SECOND]),
        ("gpu", []),
        ("GPU-77AA", [SECOND]),
        ("GPU-", []),  # of both: none of them is meant
        ("", []),
        ("-1", []),
        ("1,7,0", [SECOND]),
        ("1,1", [SECOND]),
        ("MIG-abc,0", ["MIG-abc", FIRST]),
    ],
)
def test_what_may_be_seen(wanted: str | None, ids: list[str]) -> None:
    assert [one.id for one in visible(parse_list(TWO), wanted)] == ids


def test_free_memory_by_either_name() -> None:
    assert parse_free(f"0, {FIRST}, 143000\n1, {SECOND}, [N/A]\n") == {"0": 143000, FIRST: 143000}


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ("0x0000000000000000", ()),
        ("0x0000000000000001", ()),  # idle
        ("0x0000000000000002", ()),  # clocks that somebody set
        ("0x0000000000000004", ()),  # its ordinary limit of power
        ("0x0000000000000020", ("too hot",)),
        ("0x0000000000000048", ("slowed down by its hardware", "too hot")),
        ("0x0000000000000064", ("too hot",)),
        ("0x0000000000000080", ("short of power",)),
        ("[N/A]", ()),
    ],
)
def test_what_slows_it_down(mask: str, why: tuple[str, ...]) -> None:
    assert parse_throttling(f"{mask}\n") == why


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of answers of a nvidia-smi of our own: `<query>` or `<query>.<gpu>`."""
    folder, program = tmp_path / "answers", tmp_path / "bin" / "nvidia-smi"
    folder.mkdir()
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nif [ -n "$4" ]; then name="${{1#--query-}}.$4"; else name="${{1#--query-}}"; fi\n'
        f'cat "{folder}/$name" 2>/dev/null && exit 0\necho "Field is not a valid field to query."; exit 2\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def test_it_is_asked(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (answers / "gpu=index,uuid,name,memory.total").write_text(TWO)
    (answers / "gpu=index,uuid,memory.free").write_text(f"0, {FIRST}, 143000\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert list_gpus() == (Gpu(SECOND, "NVIDIA A100-SXM4-40GB", 40960), Gpu(FIRST, "NVIDIA H200", 143771))
    assert [gpu.id for gpu in list_gpus(by_index=True)] == ["1", "0"]
    assert free_mb()[FIRST] == 143000


@pytest.mark.parametrize("word", ["throttle", "event"])
def test_the_state_of_one(answers: Path, word: str) -> None:
    """Older drivers name the reasons otherwise than newer ones."""
    (answers / "gpu=utilization.gpu.1").write_text("37\n")
    (answers / "compute-apps=pid.1").write_text("4711\n4712\n")
    (answers / f"gpu=clocks_{word}_reasons.active.1").write_text("0x0000000000000020\n")
    assert state_of("1") == GpuState(busy=0.37, throttling=("too hot",), processes=frozenset({4711, 4712}))


def test_one_that_does_not_answer(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_gpus() == ()  # it fails
    assert state_of("0") == GpuState()
    program = answers.parent / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(gpus, "PATIENCE_S", 0.1)
    assert free_mb() == {}
    program.unlink()
    assert list_gpus() == ()
