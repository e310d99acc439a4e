"""HTML built from Python: every string is escaped; only what `tag` and `joined` made is markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import msgspec

from harness.text import clean

_VOID = frozenset({"input"})  # have no end tag
_SURROGATES = re.compile(r"[\ud800-\udfff]")


class Html(str):
    """Markup made by this module; anything else is text."""

    __slots__ = ()


Child = Html | str | int | None


def tag(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """`tag("td", "a < b", class_="n", data_sort=3)`. None and False leave an attribute out, True gives it no value."""
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    end = "" if name in _VOID else f"</{name}>"
    return Html(f"<{name}{given}>{joined(children)}{end}")


def joined(children: Iterable[Child]) -> Html:
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


def escaped(text: str | int | None) -> Html:
    """Text that a page shows as it is, on one line, without what could reorder or hide it."""
    return Html("" if text is None else html.escape(clean(str(text)), quote=True))


def lines(text: str, end: str = "<br>") -> Html:
    """Text of several lines; `end` is markup."""
    return Html(end.join(map(escaped, text.splitlines())))


def data_block(identifier: str, value: object) -> Html:
    """JSON for the page's script. Inside, no `<` is left, so that nothing in it ends the block."""
    data = msgspec.json.encode(value).decode().replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{escaped(identifier)}">{data}</script>')


def whole_text(text: str) -> str:
    """Several lines of text, fit for UTF-8."""
    return _SURROGATES.sub("�", text)


def _attribute(key: str, value: str | int | float | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'
