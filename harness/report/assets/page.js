"use strict";
// Text from data and models reaches the page by textContent alone.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const make = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // --- light and dark -------------------------------------------------------------------------

  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const stored = (() => { try { return localStorage.getItem("moodbench-theme"); } catch { return null; } })();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  const isDark = () => (root.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark";

  const chartTemplate = (dark) => {
    const ink = dark ? "#e7e9ed" : "#1c2027", muted = dark ? "#a3abb7" : "#5a626e", paper = dark ? "#1a1d23" : "#ffffff";
    const grid = dark ? "#31363f" : "#e6e8ec", strong = dark ? "#525a66" : "#b9bec7";
    const axis = { gridcolor: grid, linecolor: strong, zerolinecolor: strong, tickcolor: strong, automargin: true };
    const font = { color: ink, family: getComputedStyle(document.body).fontFamily, size: 13 };
    const bar = { outlinewidth: 0, tickcolor: strong, tickfont: { color: ink }, title: { font: { color: ink } } };
    return { layout: {
      font, paper_bgcolor: paper, plot_bgcolor: paper, xaxis: axis, yaxis: axis, title: { font },
      hoverlabel: { bgcolor: paper, bordercolor: strong, font, align: "left" },
      legend: { bgcolor: "rgba(0,0,0,0)", font }, annotationdefaults: { font: { color: ink }, arrowcolor: muted },
      updatemenudefaults: { bgcolor: paper, bordercolor: strong, font: { color: dark ? "#e7e9ed" : "#1c2027" } },
      shapedefaults: { line: { color: muted } }, coloraxis: { colorbar: bar },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink },
    } };
  };
  const drawnPlots = () => [...document.querySelectorAll('.plot[data-drawn="yes"]')];
  const colourCharts = (dark) => Promise.all(drawnPlots().map((plot) => Plotly.relayout(plot, { template: chartTemplate(dark) })));

  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("moodbench-theme", root.dataset.theme); } catch { /* a page from a file may keep nothing */ }
    colourCharts(isDark());
  });
  systemDark.addEventListener("change", () => colourCharts(isDark()));

  // --- charts: those in view first, the others while the page has nothing else to do ------------

  const waiting = new Set(document.querySelectorAll(".plot"));
  const options = (plot) => ({
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    toImageButtonOptions: { filename: plot.id.replace("plot-", ""), scale: 2 },
  });

  const draw = (plot) => {
    if (!waiting.delete(plot)) return;
    try {
      const { data, layout } = read(plot.dataset.figure);
      Plotly.newPlot(plot, data, { ...layout, autosize: true, template: chartTemplate(isDark()) }, options(plot));
      plot.dataset.drawn = "yes";
    } catch (error) {
      plot.dataset.drawn = "no";
      plot.textContent = "This chart could not be drawn.";
      console.error(error);
    }
    if (!waiting.size) root.dataset.charts = "drawn";
  };

  const idle = window.requestIdleCallback || ((then) => setTimeout(then, 20));
  const drawRest = () => {
    const [next] = waiting;
    if (!next) return;
    draw(next);
    idle(drawRest);
  };

  const unpacked = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };

  const startCharts = async () => {
    if (!waiting.size) { root.dataset.charts = "drawn"; return; }
    if (!("DecompressionStream" in window)) {
      for (const plot of waiting) plot.textContent = "This browser is too old to draw charts; the tables have the figures.";
      return;
    }
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.head.append(script);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "400px" });
    for (const plot of waiting) seen.observe(plot);
    idle(drawRest);
  };
  startCharts();

  addEventListener("beforeprint", () => {
    if (!window.Plotly) return;
    for (const plot of [...waiting]) draw(plot);
    colourCharts(false);
  });
  addEventListener("afterprint", () => { if (window.Plotly) colourCharts(isDark()); });

  // --- tables -----------------------------------------------------------------------------------

  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };

  const sort = (table, head) => {
    const first = head.dataset.first || "ascending", other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1, body = table.tBodies[0];
    const key = (row) => row.cells[head.cellIndex].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // nothing comes last
      return sign * compare(x, y);
    });
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) sort(table, button.closest("th"));
    });
  }

  const wordsOf = (field) => field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const search = byId("search");
  search?.addEventListener("input", () => {
    const words = wordsOf(search);
    let shown = 0, all = 0;
    for (const board of document.querySelectorAll(".board")) {
      const rows = [...board.querySelectorAll("tbody tr")];
      for (const row of rows) row.hidden = !words.every((word) => row.dataset.search.includes(word));
      const left = rows.filter((row) => !row.hidden).length;
      board.querySelector(".nothing").hidden = left > 0;
      shown += left;
      all += rows.length;
    }
    byId("search-count").textContent = words.length ? `${shown} of ${all} rows` : "";
  });

  // --- texts on which models differ -------------------------------------------------------------

  const PAGE = 25;
  const sections = read("differ-data");
  const choice = (name) => byId(`differ-${name}`);
  let limit = PAGE;

  const answersOf = (section, text) => {
    const groups = new Map();
    text.answers.forEach((code, place) => groups.set(code, [...(groups.get(code) || []), section.models[place]]));
    return [...groups].sort(([a], [b]) => (b === text.label) - (a === text.label) || a - b);
  };

  const textItem = (section, text) => {
    const item = make("li");
    item.append(make("p", "truth", `${text.id} · labelled ${section.labels[text.label]}`), make("div", "text", text.text));
    const answers = make("div", "answers");
    for (const [code, models] of answersOf(section, text)) {
      const right = code === text.label, line = make("div", right ? "right" : "wrong");
      line.append(make("b", "", `${right ? "✓" : "✗"} ${section.labels[code]}`), `: ${models.join(", ")}`);
      answers.append(line);
    }
    item.append(answers);
    return item;
  };

  const matching = (section) => {
    const words = wordsOf(choice("search"));
    const wrong = choice("wrong").value, right = choice("right").value;
    const answer = (text, model) => text.answers[section.models.indexOf(model)];
    return section.texts.filter((text) =>
      words.every((word) => text.text.toLowerCase().includes(word))
      && (!wrong || ![text.label, undefined].includes(answer(text, wrong)))
      && (!right || answer(text, right) === text.label));
  };

  const showTexts = () => {
    const section = sections[Number(choice("dataset").value)];
    const found = matching(section);
    choice("list").replaceChildren(...found.slice(0, limit).map((text) => textItem(section, text)));
    const all = section.total.toLocaleString("en");
    const kept = section.texts.length < section.total
      ? `${section.texts.length} of the ${all} texts on which models differ: those on which they are most divided`
      : section.total === 1 ? "The one text on which models differ" : `All ${all} texts on which models differ`;
    const of = found.length < section.texts.length ? `; ${found.length} of them match` : "";
    choice("count").textContent = `${kept}${of}. Answers are those of the first seed.`;
    choice("more").hidden = found.length <= limit;
  };

  if (choice("list")) {
    for (const name of ["dataset", "search", "wrong", "right"]) {
      choice(name).addEventListener("input", () => { limit = PAGE; showTexts(); });
    }
    choice("more").addEventListener("click", () => { limit += PAGE; showTexts(); });
    showTexts();
  }

  // --- contents ---------------------------------------------------------------------------------

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const inView = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) inView.observe(section);
  root.dataset.ready = "yes";
})();
