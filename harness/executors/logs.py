"""What a cell prints, made safe to keep and to show: whole lines without terminal sequences, never more than so much.

The log depends only on what was printed, not on how it was cut into chunks on its way. Memory is bounded too, whatever
is printed.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from harness.text import plain

HEAD_BYTES = 10 * 2**20  # kept from the beginning, and ...
TAIL_CHARS = 2**18  # ... from the end, where an error would stand
LINE_CHARS = 4096  # a longer line becomes several
SCANNED_CHARS = 64 * 2**20  # a flood of progress bars is looked at for so long

_TOKEN = re.compile(r"\n|\r+|[^\r\n]+")


class _Lines:
    """Cuts text into lines; of what a carriage return overwrote only the last state is left."""

    def __init__(self) -> None:
        self._line = ""
        self._overwritten = ""

    def cut(self, text: str) -> Iterator[tuple[str, int]]:
        """Each line that is whole now, and where in `text` it ends."""
        for match in _TOKEN.finditer(text):
            token = match[0]
            if token == "\n":
                yield self.rest(), match.end()
            elif token[0] == "\r":
                self._overwritten = self._line or self._overwritten
                self._line = ""
            else:
                while len(self._line) + len(token) > LINE_CHARS:
                    room = LINE_CHARS - len(self._line)
                    self._line, token = self._line + token[:room], token[room:]
                    yield self.rest(), match.end() - len(token)
                self._line += token

    def rest(self) -> str:
        """What stands there without a line's end."""
        line = self._line or self._overwritten
        self._line = self._overwritten = ""
        return line


class LogWriter:
    """Takes a stream of bytes and writes the log. A log that cannot be written is given up; the stream never waits."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._file: BinaryIO | None = path.open("wb")
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._lines = _Lines()
        self._scanned = 0
        self._written = 0
        self._tail: _Tail | None = None

    def feed(self, chunk: bytes) -> None:
        self._take(self._decode(chunk))
        self._guarded(lambda file: file.flush())

    def close(self) -> None:
        """Also writes what stands there without a line's end, and the end of what was too much."""
        if self._file is None:
            return
        self._take(self._decode(b"", True))
        if self._tail is not None:
            tail, self._tail = self._tail, None
            if tail.left_out:
                self._write(f"[... {tail.left_out:,} characters of output are left out here ...]")
            for line, _ in self._lines.cut(tail.text):
                self._write(line)
        self._end_line()
        self._guarded(lambda file: file.close())
        self._file = None

    def _take(self, text: str) -> None:
        if self._tail is not None:
            self._tail.add(text)
            return
        for line, end in self._lines.cut(text[: SCANNED_CHARS - self._scanned]):
            self._write(line)
            if self._written >= HEAD_BYTES:
                self._tail = _Tail(text[end:])
                return
        if self._scanned + len(text) > SCANNED_CHARS:
            self._end_line()
            self._tail = _Tail(text[SCANNED_CHARS - self._scanned :])
        self._scanned += len(text)

    def _end_line(self) -> None:
        line = self._lines.rest()
        if line:
            self._write(line)

    def _write(self, line: str) -> None:
        data = plain(line).encode() + b"\n"
        self._written += len(data)
        self._guarded(lambda file: file.write(data))

    def _guarded(self, work: Callable[[BinaryIO], object]) -> None:
        if self._file is None:
            return
        try:
            work(self._file)
        except OSError:  # the disk is full: the cell will say so itself
            with suppress(OSError):
                self._file.close()
            self._file = None


class _Tail:
    """The last TAIL_CHARS of a text that comes in pieces, from a line's beginning where there is one."""

    def __init__(self, text: str) -> None:
        self._pieces: deque[str] = deque()
        self._kept = 0
        self._total = 0
        self.add(text)

    def add(self, text: str) -> None:
        self._total += len(text)
        self._pieces.append(text[-TAIL_CHARS:])
        self._kept += len(self._pieces[-1])
        while self._kept - len(self._pieces[0]) >= TAIL_CHARS:
            self._kept -= len(self._pieces.popleft())

    @property
    def text(self) -> str:
        last = "".join(self._pieces)[-TAIL_CHARS:]
        if len(last) == self._total:
            return last
        return last[last.find("\n", 0, LINE_CHARS) + 1 :]

    @property
    def left_out(self) -> int:
        return self._total - len(self.text)
