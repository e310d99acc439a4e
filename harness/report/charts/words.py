"""Text in charts. Plotly reads names, ticks and hover text as a subset of HTML: whatever comes from data goes through
`escaped` or `short`."""

from __future__ import annotations

from collections.abc import Sequence

from harness.board import Figure, Place, Row, SpeedKey
from harness.metrics import METRICS, format_interval, format_value
from harness.text import clean

LINE = "<br>"
LABEL_CHARS = 34

_CAUTIONS = {
    "contaminated": "Timed while something else used the machine",
    "few_requests": "Too few timed requests for a p95",
    "few_test_rows": "So few test examples that the intervals are rough",
    "one_seed": "A single seed, so that the intervals leave out how much training varies",
    "reduced_batch": "A smaller batch than asked for",
}

QUALITY_FLAGS = ("few_test_rows", "one_seed")
SPEED_FLAGS = ("contaminated", "few_requests", "reduced_batch", "one_seed")


def escaped(text: str) -> str:
    """On one line, and shown by Plotly as it is."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str, chars: int = LABEL_CHARS) -> str:
    """Escaped, and cut in the middle where it is long: names tend to differ at their ends."""
    if len(text) > chars:
        tail = chars // 3
        text = f"{text[: chars - tail - 1]}…{text[-tail:]}"
    return escaped(text)


def hover(title: str, *lines: str) -> str:
    """`title` is escaped here; `lines` are words of ours, or were escaped."""
    return LINE.join((f"<b>{escaped(title)}</b>", *(line for line in lines if line)))


def figure_line(name: str, figure: Figure | None, confidence: float) -> str:
    """ "F1 macro 0.873 (95 % interval 0.851–0.894)", or why there is none."""
    metric = METRICS[name]
    if figure is None or figure.value is None:
        return f"{metric.title}: {escaped(figure.reason or 'not known') if figure else 'not known'}"
    text = f"{metric.title} {format_value(name, figure.value, unit=True)}"
    if figure.low is None or figure.high is None:
        return text
    bounds = f"{format_value(name, figure.low)}–{format_value(name, figure.high)}"
    return f"{text} ({percent(confidence)} interval {bounds})"


def bracketed(name: str, figure: Figure) -> str:
    return format_interval(name, figure.value, figure.low, figure.high)


def percent(share: float) -> str:
    """ "95 %"; "below 1 %" for what is not nothing."""
    return "below 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def signed(value: float, digits: int) -> str:
    """ "+1.2", "−0.3", and "0.0" for what rounds to nothing."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"


def signed_line(name: str, figure: Figure, digits: int, confidence: float, *, times: float = 1, unit: str = "") -> str:
    """ "NPS +41.0 (95 % interval +38.2 to +43.9)"; the figure `times` a factor, for percent."""
    if figure.value is None:
        return f"{name}: {escaped(figure.reason or 'not known')}"
    text = f"{name} {signed(times * figure.value, digits)}{unit}"
    if figure.low is None or figure.high is None:
        return text
    bounds = f"{signed(times * figure.low, digits)} to {signed(times * figure.high, digits)}"
    return f"{text} ({percent(confidence)} interval {bounds})"


def rank_line(row: Place) -> str:
    if row.rank is None:
        return ""
    return (
        f"Rank {row.rank}" if row.rank_low is None else f"Rank {row.rank} (between {row.rank_low} and {row.rank_high})"
    )


def seeds_line(row: Row) -> str:
    seeds = row.seeds
    return f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}"


def flags_line(row: Row) -> str:
    return f"Note: {', '.join(row.flags)}".replace("_", " ") if row.flags else ""


def key_words(key: SpeedKey) -> str:
    """The place of a speed: "AMD EPYC, 2 threads, native"."""
    processor = key.gpu_model or key.cpu_model or key.device
    threads = f"{key.threads} thread{'s' if key.threads != 1 else ''}"
    return ", ".join(part for part in (processor, threads, key.executor) if part)


def with_cautions(sentence: str, rows: Sequence[Row], flags: Sequence[str]) -> str:
    """A chart's note, and after it what the flags of its rows demand."""
    parts = [sentence]
    for flag in flags:
        if count := sum(flag in row.flags for row in rows):
            parts.append(f"{_CAUTIONS[flag]}: {'all rows' if count == len(rows) else f'{count} of {len(rows)} rows'}.")
    return " ".join(parts)
