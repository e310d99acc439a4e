"""Speed and memory: distributions of latency, throughput by batch size, memory in each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.charts.figures import (
    ROW_PX,
    Json,
    Panel,
    bars_between,
    chart,
    error_bars,
    height_with_legend,
    legend_below,
    legend_only,
    log_axis,
    number,
    numbers,
    places_axis,
    side_by_side,
    values_of,
)
from harness.report.charts.palette import NEUTRAL
from harness.report.charts.scene import SPEED, Part, Scene, metric, speed_groups
from harness.report.charts.words import (
    SPEED_FLAGS,
    escaped,
    figure_line,
    flags_line,
    hover,
    percent,
    short,
    with_cautions,
)
from harness.report.material import Chart, ReportRow
from harness.statistics import FloatArray, half_width
from runner.contract import Memory, Throughput

_FEWEST_BINS, _MOST_BINS = 8, 60
_HALF_HEIGHT = 0.42  # of a distribution, in lines


@dataclass(frozen=True)
class _Percentile:
    """`below`: how far under the row's middle its mark stands, in lines, so that intervals do not cover each other."""

    metric: str
    name: str
    symbol: str
    below: float


_PERCENTILES = (
    _Percentile("latency_median_ms", "p50", "circle", 0.0),
    _Percentile("latency_p95_ms", "p95", "line-ns-open", 0.2),
    _Percentile("latency_p99_ms", "p99", "x-thin-open", 0.36),
)


# --- latency ----------------------------------------------------------------------------------------


def latencies(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        for group in speed_groups(scene, part):
            sampled = [(one, samples) for one in group.rows if (samples := _samples(one)).size]
            if not sampled:
                continue
            sampled.sort(key=lambda pair: float(np.median(pair[1])))
            rows = [one for one, _ in sampled]
            note = group.note(
                "Each shape is the distribution of all timed single requests, as tall as its own peak; two humps tell "
                f"of two kinds of text, such as short and long. Marks carry {percent(scene.confidence)} intervals; a "
                "percentile that too few requests were timed for is left out."
            )
            note = with_cautions(note, [one.row for one in rows], SPEED_FLAGS)
            figure = _latency_figure(scene, rows, [samples for _, samples in sampled])
            yield chart(
                f"latency-{group.id_suffix}", f"Latency of single requests · {group.title}", SPEED, note, figure
            )


def _samples(one: ReportRow) -> FloatArray:
    """Milliseconds of all requests of all seeds."""
    raw = [cell.result.timing.latency.samples_ms for cell in one.cells if cell.result.timing]
    samples = np.array([sample for samples in raw for sample in samples], dtype=np.float64)
    return samples[samples > 0]


def _latency_figure(scene: Scene, rows: Sequence[ReportRow], samples: Sequence[FloatArray]) -> Json:
    shapes = [
        _outline(scene, one, place, values) for place, (one, values) in enumerate(zip(rows, samples, strict=True))
    ]
    marks = [_percentile_marks(scene, rows, percentile) for percentile in _PERCENTILES]
    ends = [end for values in samples for end in (float(values.min()), float(values.max()))]
    return {
        "data": [*shapes, *(trace for trace in marks if any(trace["x"]))],
        "layout": {
            "height": 170 + round(1.4 * ROW_PX) * max(len(rows), 2),
            "margin": {"t": 60, "r": 20},
            "xaxis": log_axis("latency of a single request (ms)", ends),
            "yaxis": places_axis([one.label for one in rows], reverse=True),
            "hovermode": "closest",
            "legend": legend_below(),
        },
    }


def _outline(scene: Scene, one: ReportRow, place: int, samples: FloatArray) -> Json:
    """The histogram over log latency as a closed line around the row's place. Bins by Rice's rule, 2 n^(1/3)."""
    bins = int(np.clip(round(2 * samples.size ** (1 / 3)), _FEWEST_BINS, _MOST_BINS))
    counts, edges = np.histogram(np.log10(samples), bins=bins)
    middles = 10 ** ((edges[:-1] + edges[1:]) / 2)
    x = np.concatenate([[10 ** edges[0]], middles, [10 ** edges[-1]]])
    height = _HALF_HEIGHT * np.concatenate([[0.0], counts / counts.max(), [0.0]])
    look = scene.look(one.row)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers([*x, *x[::-1]], 4),
        "y": numbers([*(place - height), *(place + height[::-1])], 4),
        "fill": "toself",
        "fillcolor": _translucent(look.colour),
        "line": {"color": look.colour, "width": 1},
        "hoveron": "fills",
        "hoverinfo": "text",
        "text": hover(
            one.label,
            f"{samples.size:,} requests, from {samples.min():.3g} to {samples.max():.3g} ms",
            flags_line(one.row),
        ),
        "showlegend": False,
    }


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.35)"


def _percentile_marks(scene: Scene, rows: Sequence[ReportRow], percentile: _Percentile) -> Json:
    figures = [metric(one.row, percentile.metric) for one in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": percentile.name,
        "x": values_of(figures),
        "y": [place + percentile.below for place in range(len(rows))],
        "error_x": error_bars(figures),
        "marker": {"symbol": percentile.symbol, "size": 8, "color": NEUTRAL, "line": {"width": 2, "color": NEUTRAL}},
        "hovertext": [
            hover(one.label, figure_line(percentile.metric, figure, scene.confidence))
            for one, figure in zip(rows, figures, strict=True)
        ],
        "hoverinfo": "text",
    }


# --- throughput -------------------------------------------------------------------------------------


def throughputs(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        for group in speed_groups(scene, part):
            rates = {one.label: (one, _rates(one)) for one in group.rows}
            traces = [_rate_line(scene, one, by_size) for one, by_size in rates.values() if by_size]
            if not traces:
                continue
            note = group.note(
                f"Where a line bends flat, larger batches gain nothing more. Bars are {percent(scene.confidence)} "
                "intervals over seeds, or over the windows of a single one."
            )
            if any(map(_is_cut, traces)):
                note += " Where one reaches down to 0, which has no place on this axis, its lower half is not drawn."
            note = with_cautions(note, [one.row for one in group.rows], SPEED_FLAGS)
            title = f"Throughput by batch size · {group.title}"
            yield chart(f"throughput-{group.id_suffix}", title, SPEED, note, _rate_figure(traces))


def _is_cut(trace: Json) -> bool:
    bars = trace["error_y"]
    return any(low is None and high for low, high in zip(bars["arrayminus"], bars["array"], strict=True))


def _rate_figure(traces: Sequence[Json]) -> Json:
    sizes = sorted({size for trace in traces for size in trace["x"]})
    ticks = {"tickvals": sizes, "ticktext": [str(size) for size in sizes]}
    return {
        "data": list(traces),
        "layout": {
            "height": height_with_legend(480, len(traces)),
            "margin": {"t": 60, "r": 20},
            "xaxis": log_axis("batch size (texts)", sizes) | ticks,
            "yaxis": log_axis("throughput (texts/s)", [rate for trace in traces for rate in trace["y"]]),
            "hovermode": "closest",
            "legend": legend_below(),
        },
    }


@dataclass(frozen=True)
class _Rate:
    """Texts per second at one batch size: mean over seeds, and half its interval's width (NaN: not known)."""

    mean: float
    half: float


def _rates(one: ReportRow) -> dict[int, _Rate]:
    """By batch size, of those that every seed measured."""
    timings = [cell.result.timing for cell in one.cells if cell.result.timing]
    by_seed = [_by_size(timing.throughput) for timing in timings]
    common = sorted(set.intersection(*(set(seed) for seed in by_seed))) if by_seed else []
    windows = [[_by_size(window.throughput) for window in timing.windows if window.counted] for timing in timings]
    most = max((len(seed) for seed in windows), default=0)
    rates = {}
    for size in common:
        table = np.full((len(timings), max(most, 1)), np.nan)
        for place, seed in enumerate(windows):
            found = [window[size] for window in seed if size in window]
            table[place, : len(found)] = found
        rates[size] = _Rate(float(np.mean([seed[size] for seed in by_seed])), float(half_width(table)))
    return {size: rate for size, rate in rates.items() if rate.mean > 0}


def _by_size(measured: Sequence[Throughput]) -> dict[int, float]:
    return {one.batch_size: one.samples_per_s for one in measured}


def _rate_line(scene: Scene, one: ReportRow, rates: dict[int, _Rate]) -> Json:
    look = scene.look(one.row)
    above = [number(rate.half) for rate in rates.values()]
    below = [number(rate.half) if rate.half < rate.mean else None for rate in rates.values()]
    hovers = [
        hover(
            one.label,
            f"Batches of {size}: {rate.mean:,.4g} texts/s",
            f"{percent(scene.confidence)} interval ± {rate.half:,.3g}" if np.isfinite(rate.half) else "",
            flags_line(one.row),
        )
        for size, rate in rates.items()
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": short(one.label),
        "x": list(rates),
        "y": numbers(rate.mean for rate in rates.values()),
        "error_y": bars_between(below, above),
        "line": {"color": look.colour, "dash": look.dash, "width": 1.5},
        "marker": {"color": look.colour, "symbol": look.symbol, "size": 7},
        "hovertext": hovers,
        "hoverinfo": "text",
    }


# --- memory -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """`process`, `device`: the field of `Memory` that holds it."""

    name: str
    process: str
    device: str
    symbol: str


_STAGES = (
    _Stage("after loading", "rss_after_load_mb", "device_allocated_after_load_mb", "circle-open"),
    _Stage("peak in inference", "rss_peak_inference_mb", "device_peak_inference_mb", "circle"),
    _Stage("peak in training", "rss_peak_training_mb", "device_peak_training_mb", "diamond-open"),
)


def memory(scene: Scene) -> Iterator[Chart]:
    """One chart; a column for each dataset."""
    parts = [part for part in scene.parts if any(_stage_values(one, stage) for one in part.rows for stage in _STAGES)]
    order = [key for key in scene.order if any(key in part.by_key for part in parts)]
    panels = []
    for part in parts:
        rows = [part.by_key.get(key) for key in order]
        traces = _memory_traces(scene, part, rows)
        x = log_axis("memory (MB)", [value for trace in traces for value in trace["x"]], most_ticks=4)
        panels.append(Panel(short(part.title, 24), traces, x))
    if panels:
        note = (
            "What each stage needs: resident memory of the process on a CPU, the device's own memory on a GPU. Means "
            "over seeds, with bars from the smallest to the largest of them."
        )
        labels = [scene.labels[key] for key in order]
        figure = side_by_side(labels, panels, showlegend=True, legend=legend_below(), extra_px=30)
        figure["data"] += [legend_only(stage.name, stage.name, symbol=stage.symbol) for stage in _STAGES]
        yield chart("memory", "Memory", SPEED, note, figure)


def _memory_traces(scene: Scene, part: Part, rows: Sequence[ReportRow | None]) -> list[Json]:
    traces = []
    for stage in _STAGES:
        found = [
            (place, one, values) for place, one in enumerate(rows) if one and (values := _stage_values(one, stage))
        ]
        means = [sum(values) / len(values) for _, _, values in found]
        colours = [scene.look(one.row).colour for _, one, _ in found]
        below = [mean - min(values) for mean, (_, _, values) in zip(means, found, strict=True)]
        above = [max(values) - mean for mean, (_, _, values) in zip(means, found, strict=True)]
        hovers = [
            hover(one.label, escaped(part.title), _stage_line(stage, one, mean, values))
            for mean, (_, one, values) in zip(means, found, strict=True)
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "legendgroup": stage.name,
                "showlegend": False,
                "x": numbers(means),
                "y": [place for place, _, _ in found],
                "error_x": bars_between(below, above),
                "marker": {"symbol": stage.symbol, "size": 9, "color": colours, "line": {"width": 2, "color": colours}},
                "hovertext": hovers,
                "hoverinfo": "text",
            }
        )
    return traces


def _stage_line(stage: _Stage, one: ReportRow, mean: float, values: Sequence[float]) -> str:
    where = "process" if one.row.device == "cpu" else one.row.device
    spread = f" (seeds from {min(values):,.0f} to {max(values):,.0f})" if len(values) > 1 else ""
    return f"Memory of the {where}, {stage.name}: {mean:,.0f} MB{spread}"


def _stage_values(one: ReportRow, stage: _Stage) -> list[float]:
    """MB in one stage, of each seed that knows it."""
    field = stage.process if one.row.device == "cpu" else stage.device
    found = [_field(cell.result.memory, field) for cell in one.cells]
    return [value for value in found if value is not None]


def _field(memory: Memory, name: str) -> float | None:
    value: float | None = getattr(memory, name)
    return value
