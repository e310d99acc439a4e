"""Text from outside (logs, data, names), made safe to show: it can neither move the cursor, restyle the terminal, nor
hide or fake words."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor, screen
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links, and other strings meant for the terminal
    r"|\x1b[ -/]*[0-~]"
)
# C0 but tab, DEL, C1, line and paragraph separators, what turns the direction of writing, and halves of characters.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(line: str) -> str:
    """A line as a program meant it for a terminal, without what the terminal would have acted on."""
    return _CONTROL.sub("", _SEQUENCE.sub("", line)).rstrip()


def clean(text: str) -> str:
    """One line that cannot pass for a line of ours; what should not be in it is marked, since it may be data."""
    return _CONTROL.sub("�", re.sub(r"[\t\r\n]+", " ", text))
