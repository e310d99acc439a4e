"""The cell's side of the lease, with a host that answers from within the cell's own naps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner import leases
from runner.contract import Event, LeaseReleased, LeaseWanted, Verdict, encode, grant_file, verdict_file
from runner.leases import Leases


class Host:
    """Acts after so many polls in a row: grants the window asked for last, judges the one released last. Each poll
    takes a second of its clock."""

    def __init__(self, folder: Path, polls: int = 3) -> None:
        self.folder, self.polls = folder, polls
        self.now = 100.0
        self.events: list[Event] = []
        self.verdicts: dict[int, bytes] = {}
        self._naps = 0

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self._naps = 0

    def sleep(self, seconds: float) -> None:
        assert seconds == 0.02
        self.now += 1.0
        self._naps += 1
        if self._naps == self.polls:
            last = self.events[-1]
            if isinstance(last, LeaseWanted):
                (self.folder / grant_file(last.window)).touch()
            elif isinstance(last, LeaseReleased):
                verdict = self.verdicts.get(last.window, encode(Verdict()))
                (self.folder / verdict_file(last.window)).write_bytes(verdict)
        assert self._naps <= self.polls, "waits for what is there"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(leases.time, "sleep", host.sleep)
    return host


def asked(host: Host) -> Leases:
    return Leases(host.folder, host.emit, asked=True, clock=lambda: host.now)


def test_each_window_is_asked_for_granted_and_judged(host: Host) -> None:
    host.verdicts[2] = encode(Verdict(reasons=("another process used the GPU",)))
    windows = asked(host)
    verdicts = []
    for number in (1, 2):
        with windows.window() as lease:
            assert (host.folder / grant_file(number)).exists()
            assert not (host.folder / verdict_file(number)).exists()
            assert lease.number == number
            assert host.events[-1] == LeaseWanted(window=number)
        assert host.events[-1] == LeaseReleased(window=number)
        verdicts.append(lease.verdict)
    assert verdicts == [Verdict(), Verdict(reasons=("another process used the GPU",))]
    assert len(host.events) == 4


def test_waiting_is_summed_and_what_happens_in_a_window_is_not(host: Host) -> None:
    windows = asked(host)
    for _ in range(2):
        with windows.window():
            host.now += 50.0
    assert windows.waited_s == pytest.approx(2 * (3 + 3))


def test_an_error_in_a_window_gives_it_back_and_waits_for_nobody(host: Host) -> None:
    windows = asked(host)
    with pytest.raises(ZeroDivisionError), windows.window():
        raise ZeroDivisionError
    assert host.events == [LeaseWanted(window=1), LeaseReleased(window=1)]
    assert windows.waited_s == pytest.approx(3)


def test_an_error_while_waiting_gives_it_back_too(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(seconds: float) -> None:
        host.now += 7.0
        raise KeyboardInterrupt

    monkeypatch.setattr(leases.time, "sleep", terminated)
    windows = asked(host)
    with pytest.raises(KeyboardInterrupt), windows.window():
        pytest.fail("it was never granted")
    assert host.events == [LeaseWanted(window=1), LeaseReleased(window=1)]
    assert windows.waited_s == pytest.approx(7)


@pytest.mark.parametrize("verdict", [b"", b"{", b'{"reasons": "none"}', b'{"reasons": [], "spare": 1}'])
def test_a_verdict_that_cannot_be_read_is_a_reason(verdict: bytes, host: Host) -> None:
    host.verdicts[1] = verdict
    with asked(host).window() as lease:
        pass
    (reason,) = lease.verdict.reasons
    assert reason.startswith("what the host saw cannot be read")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/hostname")])
def test_a_verdict_that_is_no_plain_file_is_a_reason(
    make: Callable[[Path], None], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.folder / grant_file(1)).touch()
    make(host.folder / verdict_file(1))
    with asked(host).window() as lease:
        pass
    assert len(lease.verdict.reasons) == 1


def test_without_a_host_every_window_is_granted_at_once(host: Host) -> None:
    windows = Leases(host.folder, host.emit, asked=False)
    numbers = []
    for _ in range(3):
        with windows.window() as lease:
            pass
        assert lease.verdict == Verdict()
        numbers.append(lease.number)
    assert numbers == [1, 2, 3]
    assert (host.events, list(host.folder.iterdir()), windows.waited_s) == ([], [], 0.0)
