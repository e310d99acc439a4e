"""The report in a real browser, without a network: charts, search, sorting, texts, light and dark, print."""

from __future__ import annotations

import base64
import dataclasses
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from harness.report.charts import all_charts
from harness.report.page import render
from harness.report.png import SCALE, WIDTH, write_pngs
from tests.chrome import Page, browsing, chromium
from tests.harness.report_material import material
from tests.harness.test_report_page import ALERT, hostile

DRAWN = "document.documentElement.dataset.charts === 'drawn'"
# What a chart of any kind is made of: points, lines, bars, cells of a heatmap, shapes. Those of a legend do not count,
# nor such without any extent, which stand for what is null.
MARKS = (
    ".points path, .points path.point, path.js-line, .bars path, .hm image, .violins path, .boxes path, path.box, "
    ".errorbar path, .textpoint, .heatmaplayer image, .scatterlayer path, .barlayer path"
)


# Hosts that the browser itself asks now and then, whatever page is open.
BROWSERS_OWN = (b".google.com", b".googleapis.com", b".gvt1.com")


class Listener:
    """A proxy that answers nobody and remembers what pages asked it for."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with closing(connection):
                connection.settimeout(2)
                with suppress(OSError):
                    asked = connection.recv(4096).split(b"\r\n")[0]
                    if not any(host in asked for host in BROWSERS_OWN):
                        self.asked.append(asked)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Listener]:
    with closing(Listener()) as listener:
        yield listener


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two datasets and six models; names and a text of the first dataset are scripts."""
    given = hostile()
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(render(given, all_charts(given)))
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory, proxy: Listener) -> Iterator[Page]:
    options = (f"--proxy-server=127.0.0.1:{proxy.port}", "--proxy-bypass-list=<-loopback>")
    with browsing(tmp_path_factory.mktemp("browser") / "profile", *options) as page:
        yield page


@pytest.fixture
def page(tab: Page, report: Path) -> Page:
    tab.prefer("light")
    tab.resize(1200, 900)
    tab.open(report.as_uri())
    tab.wait_for("document.documentElement.dataset.ready === 'yes'")
    return tab


def column(page: Page, table: str, heading: str) -> list[str]:
    """The texts of a column, top to bottom, of rows that are shown."""
    found = page.evaluate(f"""(() => {{
        const table = document.getElementById('{table}');
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith('{heading}'));
        return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[at].textContent);
    }})()""")
    assert isinstance(found, list)
    return found


def head(table: str, heading: str) -> str:
    """JavaScript that finds a column's head."""
    return (
        f"[...document.querySelectorAll('#{table} thead th')].find((cell) => cell.textContent.startsWith('{heading}'))"
    )


def click(page: Page, table: str, heading: str) -> Any:
    return page.evaluate(f"{head(table, heading)}.querySelector('button').click()")


def write(page: Page, field: str, text: str) -> None:
    page.evaluate(f"""(() => {{
        const field = document.getElementById('{field}');
        field.value = '{text}';
        field.dispatchEvent(new Event('input', {{ bubbles: true }}));
    }})()""")


def test_every_chart_has_drawn_marks_without_an_error_or_a_request(page: Page, proxy: Listener, report: Path) -> None:
    page.wait_for(DRAWN)
    charts = page.evaluate("[...document.querySelectorAll('.plot')].map((plot) => plot.id)")
    assert len(charts) == len(all_charts(hostile())) > 20
    empty = page.evaluate(f"""[...document.querySelectorAll('.plot')]
        .filter((plot) => ![...plot.querySelectorAll('.cartesianlayer :is({MARKS})')].some((mark) => {{
            const box = mark.getBBox();
            return box.width > 0 || box.height > 0;
        }})).map((plot) => plot.id)""")
    assert empty == []
    assert page.console == []
    asked = {url for url in page.requests if not url.startswith(("data:", "blob:"))}
    assert asked <= {report.as_uri(), "about:blank"}
    assert proxy.asked == []


def test_the_proxy_would_have_seen_a_request_and_the_page_forbids_it(page: Page, proxy: Listener) -> None:
    refused = page.evaluate("fetch('http://report.invalid/x').then(() => 'sent', () => 'refused')")
    page.evaluate("document.title")  # so that its reports have come
    assert refused == "refused"
    assert proxy.asked == []
    assert any("Content Security Policy" in line for line in page.console)
    page.open("about:blank")
    page.evaluate("fetch('http://report.invalid/y', { mode: 'no-cors' }).catch(() => 0)")
    assert any(b"report.invalid" in line for line in proxy.asked)
    proxy.asked.clear()
    page.console.clear()


def test_scripts_in_names_and_texts_stay_text(page: Page) -> None:
    page.wait_for(DRAWN)
    assert page.evaluate("document.querySelectorAll('main script, .plot script').length") == 0
    [text] = page.evaluate("[...document.querySelectorAll('#differ-list .text')].map((one) => one.textContent)")
    assert text == f"{ALERT}\nnext � line"
    title = page.evaluate("document.querySelector('#board-0 caption .name').textContent")
    assert title == ALERT
    assert page.evaluate("document.title").startswith(ALERT)
    drawn = page.evaluate("[...document.querySelectorAll('.plot text')].map((one) => one.textContent).join('|')")
    assert "<script>" in drawn  # the names of models, in legends and on axes
    assert page.console == []


def test_search_filters_the_rows_of_all_tables(page: Page) -> None:
    everything = column(page, "board-1", "Model")
    write(page, "search", "lora  MINI")
    assert column(page, "board-1", "Model") == [name for name in everything if "MiniLM-L6 lora" in name] != []
    told = page.evaluate("document.getElementById('search-count').textContent")
    assert told.endswith(f"of {page.evaluate('document.querySelectorAll(`.board tbody tr`).length')} rows")
    write(page, "search", "no such model")
    assert column(page, "board-1", "Model") == []
    assert page.evaluate("[...document.querySelectorAll('.board .nothing')].every((one) => !one.hidden)")
    write(page, "search", "")
    assert column(page, "board-1", "Model") == everything


def test_columns_sort_both_ways_by_value(page: Page) -> None:
    ranks = column(page, "board-1", "Rank")
    click(page, "board-1", "p50")
    fast = [float(text) for text in column(page, "board-1", "p50")]
    assert fast == sorted(fast) != fast[::-1]
    assert page.evaluate(f"{head('board-1', 'p50')}.ariaSort") == "ascending"
    click(page, "board-1", "p50")
    assert [float(text) for text in column(page, "board-1", "p50")] == fast[::-1]
    assert page.evaluate(f"{head('board-1', 'p50')}.ariaSort") == "descending"
    click(page, "board-1", "Accuracy")  # more is better: the first click puts the best on top
    best = [float(text.split()[0]) for text in column(page, "board-1", "Accuracy")]
    assert best == sorted(best, reverse=True)
    click(page, "board-1", "Parameters")
    assert column(page, "board-1", "Parameters")[-1] == "–"  # nothing comes last ...
    click(page, "board-1", "Parameters")
    assert column(page, "board-1", "Parameters")[-1] == "–"  # ... both ways
    click(page, "board-1", "Rank")
    assert column(page, "board-1", "Rank") == ranks


def test_the_keyboard_sorts(page: Page) -> None:
    page.evaluate(f"{head('board-1', 'Model')}.querySelector('button').focus()")
    page.press("Enter", 13)
    names = column(page, "board-1", "Model")
    assert names == sorted(names, key=str.lower)


def test_texts_are_found_by_dataset_word_and_model(tab: Page, tmp_path: Path) -> None:
    given = material()
    first, second = given.sections
    names = [row.label for row in first.rows]
    texts = tuple(
        dataclasses.replace(
            first.disagreements[0],
            id=f"id-{place}",
            text=f"text {place} {'even' if place % 2 == 0 else 'odd'}",
            answers={name: first.label_names[(place + number) % 2] for number, name in enumerate(names)},
        )
        for place in range(60)
    )
    many = dataclasses.replace(first, disagreements=texts, disagreements_total=1234)
    path = tmp_path / "report.html"
    path.write_bytes(render(dataclasses.replace(given, sections=(many, second)), ()))
    tab.open(path.as_uri())

    def shown() -> list[str]:
        found = tab.evaluate("[...document.querySelectorAll('#differ-list .text')].map((one) => one.textContent)")
        assert isinstance(found, list)
        return found

    def told() -> str:
        return str(tab.evaluate("document.getElementById('differ-count').textContent"))

    assert shown() == [text.text for text in texts[:25]]
    assert told().startswith("60 of the 1,234 texts on which models differ")
    tab.evaluate("document.getElementById('differ-more').click()")
    assert len(shown()) == 50
    write(tab, "differ-search", "EVEN 4")
    assert shown() == [text.text for text in texts if "even" in text.text and "4" in text.text]
    write(tab, "differ-search", "")
    write(tab, "differ-wrong", names[0])
    wrong = [text.text for text in texts if text.answers[names[0]] != text.label]
    assert shown() == wrong[:25] != []
    write(tab, "differ-right", names[2])  # it answers as the first does
    assert shown() == []
    assert "; 0 of them match" in told()
    for name in ("differ-wrong", "differ-right"):
        write(tab, name, "")
    write(tab, "differ-dataset", "1")
    assert shown() == [second.disagreements[0].text]
    assert told().startswith("The one text on which models differ.")
    assert tab.console == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: str, paper: str) -> float:
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colour(page: Page, selector: str, name: str) -> str:
    return str(page.evaluate(f"getComputedStyle(document.querySelector('{selector}'))['{name}']"))


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_words_and_charts_are_readable_in_light_and_dark(page: Page, scheme: str, dark: bool) -> None:
    page.prefer(scheme)
    page.open(str(page.evaluate("location.href")))
    page.wait_for(DRAWN)
    assert (luminance(colour(page, "body", "backgroundColor")) < 0.1) is dark
    paper = colour(page, "figure", "backgroundColor")
    assert colour(page, ".plot .main-svg", "backgroundColor") == paper
    for selector in (".lead", ".plot .xtick text", "figcaption p", "tbody th", "td small"):
        ink = colour(page, selector, "fill" if selector.endswith("text") else "color")
        assert contrast(ink, paper) >= 4.5, selector


def test_the_toggle_turns_page_and_charts(page: Page) -> None:
    page.wait_for(DRAWN)
    before = colour(page, "body", "backgroundColor")
    page.evaluate("document.getElementById('theme').click()")
    page.wait_for(f"getComputedStyle(document.body).backgroundColor !== '{before}'")
    paper = colour(page, "figure", "backgroundColor")
    page.wait_for(f"""[...document.querySelectorAll('.plot')].every((plot) =>
        getComputedStyle(plot.querySelector('.main-svg')).backgroundColor === '{paper}')""")
    page.evaluate("document.getElementById('theme').click()")
    page.wait_for(f"getComputedStyle(document.body).backgroundColor === '{before}'")


def test_a_narrow_window_scrolls_tables_not_the_page(page: Page) -> None:
    page.resize(420, 800)
    page.wait_for(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.resize(1200, 900)


def test_a_chart_is_saved_as_a_picture_without_a_network(page: Page) -> None:
    page.wait_for(DRAWN)
    picture = page.evaluate(
        "Plotly.toImage(document.querySelector('.plot'), { format: 'png', width: 400, height: 300 })"
    )
    data = base64.b64decode(picture.split(",")[1])
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (400, 300)
    assert page.console == []


def test_each_chart_as_a_png_file(tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    chromium()
    charts = all_charts(material(datasets=("sst2",)))[:2]
    paths = write_pngs(charts, tmp_path / "charts")
    assert [path.name for path in paths] == [f"{chart.id}.png" for chart in charts]
    for path, chart in zip(paths, charts, strict=True):
        data = path.read_bytes()
        height = chart.figure["layout"]["height"]
        assert struct.unpack(">II", data[16:24]) == (WIDTH * SCALE, height * SCALE)
        assert len(data) > 10_000  # an empty picture of that size is smaller


def test_print_has_every_chart(tab: Page, report: Path) -> None:
    tab.open(report.as_uri())
    tab.wait_for("window.Plotly")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every((plot) => plot.dataset.drawn === 'yes')")
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
