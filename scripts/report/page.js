"use strict";

const $ = (id) => document.getElementById(id);
const runs = JSON.parse($("data").textContent);

/** Make an element with attributes (those that begin with "on" are listeners) and children; text is never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "text"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const number = (value) => {
  if (typeof value !== "number") return value ?? "";
  const plain = value === 0 || (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e6);
  return plain ? String(Number(value.toPrecision(4))) : value.toExponential(2);
};
const duration = (s) => {
  if (s === undefined) return "";
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  const minutes = Math.round(s / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};
const two = (value) => String(value).padStart(2, "0");
const date = (seconds) => {
  if (seconds === undefined) return "";
  const d = new Date(1000 * seconds);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}`;
};
const label = (run) =>
  [run.method, run.dataset, run.model, run.settings, run.seed === undefined ? "" : `seed=${run.seed}`].filter(Boolean).join(" ");

// ---- theme

const dark = matchMedia("(prefers-color-scheme: dark)");
const stored = { // the browser may deny storage to a page from a file
  get theme() { try { return localStorage.getItem("theme"); } catch { return null; } },
  set theme(value) { try { localStorage.setItem("theme", value); } catch { /* kept until the page is closed */ } },
};
function applyTheme(theme) {
  document.documentElement.style.colorScheme = theme ?? "light dark";
  $("theme").setAttribute("aria-pressed", String((theme ?? (dark.matches ? "dark" : "light")) === "dark"));
}
$("theme").addEventListener("click", () => {
  const theme = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  stored.theme = theme;
  applyTheme(theme);
});
dark.addEventListener("change", () => applyTheme(stored.theme));
applyTheme(stored.theme);

// ---- list of runs

const STEP = 200; // rows drawn at once
const METRIC_COLUMNS = 3;
const FIXED = [
  { name: "Method", of: (run) => run.method, cell: (run) => opener(run) },
  { name: "Dataset", of: (run) => run.dataset },
  { name: "Model", of: (run) => run.model },
  { name: "Settings", of: (run) => run.settings, class: "wrap" },
  { name: "Seed", of: (run) => run.seed, class: "number" },
  { name: "State", of: (run) => run.state, class: (run) => run.state },
];
const LAST = [
  { name: "Time", of: (run) => run.seconds, show: duration, class: "number" },
  { name: "When", of: (run) => run.time, show: date },
];
const view = { sort: "When", descending: true, found: runs, columns: [], drawn: 0, ticked: new Set() };
for (const run of runs) {
  run.text = [label(run), run.state, run.id, run.error ?? ""].join(" ").toLowerCase();
}

/** Choose the metrics that most of the found runs have; losses, times and sizes come last. */
function metricColumns(found) {
  const counts = new Map();
  for (const run of found) for (const name of Object.keys(run.metrics ?? {})) counts.set(name, (counts.get(name) ?? 0) + 1);
  const minor = (name) => /loss|seconds|_gib/.test(name);
  const names = [...counts.keys()].sort((a, b) => minor(a) - minor(b) || counts.get(b) - counts.get(a));
  return names.slice(0, METRIC_COLUMNS).map((name) => ({ name, of: (run) => run.metrics?.[name], show: number, class: "number" }));
}

function compare(a, b) {
  const blank = (value) => value === undefined || value === "" || (typeof value === "number" && isNaN(value));
  if (blank(a) || blank(b)) return (blank(a) - blank(b)) * (view.descending ? -1 : 1); // blanks come last in both directions
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function search() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  view.found = runs.filter((run) => words.every((word) => run.text.includes(word)));
  view.columns = [...FIXED, ...metricColumns(view.found), ...LAST];
  sort();
}

function sort() {
  const column = view.columns.find((column) => column.name === view.sort) ?? LAST[1];
  view.found.sort((a, b) => compare(column.of(a), column.of(b)) * (view.descending ? -1 : 1));
  drawList();
}

function drawList() {
  const header = view.columns.map((column) => {
    const sorted = column.name === view.sort;
    const button = element("button", { type: "button", onclick: () => sortBy(column.name) }, column.name);
    const direction = sorted ? (view.descending ? "descending" : "ascending") : "none";
    return element("th", { scope: "col", "aria-sort": direction, class: column.class === "number" && "number" }, button);
  });
  const focused = document.activeElement?.closest?.("#list thead") && document.activeElement.textContent;
  const tick = element("th", { scope: "col" }, element("span", { class: "hidden" }, "In the plot"));
  $("list").tHead.replaceChildren(element("tr", {}, tick, ...header));
  if (focused) header.find((th) => th.textContent === focused)?.firstChild.focus();
  $("list").tBodies[0].replaceChildren();
  view.drawn = 0;
  drawMore();
  $("found").textContent = `${view.found.length} of ${runs.length} runs`;
}

function drawMore() {
  const next = view.found.slice(view.drawn, view.drawn + STEP);
  $("list").tBodies[0].append(...next.map(row));
  view.drawn += next.length;
  $("more").hidden = view.drawn === view.found.length;
}

function sortBy(name) {
  view.descending = name === view.sort && !view.descending;
  view.sort = name;
  sort();
}

function row(run) {
  const box = run.curves && element("input", {
    type: "checkbox", "aria-label": `Plot ${label(run)}`, onchange: (event) => tick([run], event.target.checked),
  });
  if (box) box.checked = view.ticked.has(run);
  const cells = view.columns.map((column) => {
    const style = typeof column.class === "function" ? column.class(run) : column.class;
    const content = column.cell ? column.cell(run) : (column.show ?? String)(column.of(run) ?? (column.show ? undefined : ""));
    return element("td", { class: style ?? false }, content);
  });
  return element("tr", {}, element("td", {}, box ?? ""), ...cells);
}

function opener(run) {
  const toggle = (event) => {
    const button = event.currentTarget;
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    const line = button.closest("tr");
    if (open) line.after(element("tr", { class: "detail" }, element("td", { colspan: view.columns.length + 1 }, details(run))));
    else line.nextElementSibling.remove();
  };
  return element("button", { type: "button", class: "open", "aria-expanded": "false", onclick: toggle }, run.method);
}

function details(run) {
  const link = (text, address) => element("a", { href: address }, text);
  const memory = Object.entries(run.memory ?? {}).map(([what, bytes]) => `${what} ${(bytes / 2 ** 30).toFixed(2)} GiB`);
  const entries = {
    folder: link(run.folder, `${run.folder}/`),
    error: run.error,
    settings: run.settings,
    metrics: Object.entries(run.metrics ?? {}).map(([name, value]) => `${name} ${number(value)}`).join("\n"),
    figures: element("span", {}, ...Object.entries(run.figures ?? {}).flatMap(([name, address]) => [link(name, address), " "])),
    machine: run.machine,
    numerics: run.numerics,
    commit: run.commit,
    "peak memory": memory.join(", "),
  };
  const list = element("dl");
  for (const [name, value] of Object.entries(entries)) {
    if (value && (typeof value === "string" || value.textContent)) list.append(element("dt", {}, name), element("dd", {}, value));
  }
  return list;
}

// ---- learning curves

const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const look = (index) => ({ stroke: `var(--c${index % 8})`, "stroke-dasharray": DASHES[Math.floor(index / 8) % DASHES.length] });

function tick(some, on) {
  for (const run of some) {
    if (on) view.ticked.add(run);
    else view.ticked.delete(run);
  }
  drawCurves();
}

/** Keep the chosen metric if a ticked run has it; else choose the most common one. */
function fillMetrics() {
  const names = new Set([...view.ticked].flatMap((run) => Object.keys(run.curves).filter((name) => name.includes("/"))));
  const chosen = names.has($("metric").value)
    ? $("metric").value
    : ["val/acc", "val/loss", "train/loss"].find((name) => names.has(name)) ?? [...names][0];
  $("metric").replaceChildren(...[...names].sort().map((name) => element("option", {}, name)));
  $("metric").value = chosen ?? "";
}

function linesOf(metric, axis) {
  return [...view.ticked].map((run, index) => {
    const xs = run.curves[axis] ?? [];
    const ys = run.curves[metric] ?? [];
    const shift = axis === "epoch" ? 1 : 0; // metrics.csv counts epochs from 0, the page from 1
    const points = ys.map((y, i) => [xs[i] + shift, y]);
    const drawable = ([x, y]) => Number.isFinite(x) && typeof y === "number" && (!$("log").checked || y > 0);
    return { run, index, points: points.filter(drawable) };
  });
}

/** Return about `count` round values between two numbers. */
function ticksBetween(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

/** Return round values of a logarithmic axis between two powers of ten: 1, 2, 5 of every decade, unless they are too few or too many. */
function logTicksBetween(low, high) {
  const decades = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, i) => Math.floor(low) + i);
  const within = (y) => Math.log10(y) >= low && Math.log10(y) <= high;
  const fine = decades.flatMap((power) => [1, 2, 5].map((factor) => factor * 10 ** power)).filter(within);
  if (fine.length < 3) return ticksBetween(10 ** low, 10 ** high, 5);
  return fine.length <= 9 ? fine : decades.map((power) => 10 ** power).filter(within);
}

function drawCurves() {
  $("curves").hidden = !runs.some((run) => run.curves);
  fillMetrics();
  const [metric, axis, log] = [$("metric").value, $("axis").value, $("log").checked];
  const lines = linesOf(metric, axis);
  drawLegend(lines);
  const [width, height] = [Math.max(300, $("plot").clientWidth), 320];
  const box = { left: 62, right: width - 14, top: 12, bottom: height - 42 };
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${metric} against ${axis}` });
  $("plot").replaceChildren(svg);
  const all = lines.flatMap((line) => line.points);
  if (!all.length) {
    svg.append(element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "Tick runs in the list to see their curves"));
    return;
  }
  const scaled = log ? Math.log10 : (y) => y;
  const range = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [x0, x1] = range(all.map(([x]) => x));
  let [y0, y1] = range(all.map(([, y]) => scaled(y)));
  const margin = (y1 - y0) * 0.04 || Math.abs(y0) * 0.1 || 1;
  [y0, y1] = [y0 - margin, y1 + margin];
  const px = (x) => box.left + ((x - x0) / (x1 - x0 || 1)) * (box.right - box.left);
  const py = (y) => box.bottom - ((scaled(y) - y0) / (y1 - y0)) * (box.bottom - box.top);
  for (const y of log ? logTicksBetween(y0, y1) : ticksBetween(y0, y1, 5)) {
    svg.append(
      element("line", { class: "grid", x1: box.left, x2: box.right, y1: py(y), y2: py(y) }),
      element("text", { x: box.left - 8, y: py(y) + 4, "text-anchor": "end" }, number(Number(y.toPrecision(3)))),
    );
  }
  for (const x of ticksBetween(x0, x1, Math.min(8, width / 80))) {
    svg.append(element("text", { x: px(x), y: box.bottom + 18, "text-anchor": "middle" }, number(x)));
  }
  svg.append(element("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, axis));
  for (const { points, index } of lines) {
    const path = points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)},${py(y).toFixed(1)}`).join("");
    const alone = points.length === 1 ? "h.01" : "";
    svg.append(element("path", { class: "line", d: path + alone, "stroke-linecap": "round", ...look(index) }));
  }
  const cursor = element("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const at = (event.offsetX * width) / svg.clientWidth;
    const x = x0 + ((at - box.left) / (box.right - box.left)) * (x1 - x0);
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    lines.forEach(({ points }, i) => {
      const nearest = points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best), points[0]);
      $("legend").children[i].querySelector("output").textContent = nearest ? `${number(nearest[1])} at ${number(nearest[0])}` : "";
    });
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    $("legend").querySelectorAll("output").forEach((output) => (output.textContent = ""));
  });
}

function drawLegend(lines) {
  $("legend").replaceChildren(...lines.map(({ run, index, points }) => {
    const swatch = element("svg", { "aria-hidden": "true" }, element("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 2.5, ...look(index) }));
    const untick = () => { tick([run], false); drawList(); };
    const remove = element("button", { type: "button", "aria-label": `Remove ${label(run)}`, onclick: untick }, "×");
    return element("li", {}, swatch, label(run) + (points.length ? "" : " (none)"), element("output"), remove);
  }));
}

// ---- controls

const MAX_LINES = 24; // lines that can still be told apart
$("search").addEventListener("input", search);
$("more").addEventListener("click", drawMore);
$("tick").addEventListener("click", () => {
  tick(view.found.filter((run) => run.curves).slice(0, MAX_LINES), true);
  drawList();
});
$("clear").addEventListener("click", () => {
  tick(runs, false);
  drawList();
});
for (const control of ["metric", "axis", "log"]) $(control).addEventListener("change", drawCurves);
addEventListener("resize", drawCurves);
for (const button of document.querySelectorAll("[data-search]")) {
  button.addEventListener("click", () => {
    $("search").value = button.dataset.search;
    search();
    $("runs").scrollIntoView();
    $("search").focus({ preventScroll: true });
  });
}
for (const button of document.querySelectorAll(".gallery button")) {
  button.addEventListener("click", () => {
    const [image, caption] = [$("zoom").querySelector("img"), $("zoom").querySelector("p")];
    const small = button.querySelector("img");
    [image.src, image.alt, caption.textContent] = [small.src, small.alt, small.alt];
    $("zoom").showModal();
  });
}

for (const time of document.querySelectorAll("time")) time.textContent = date(Date.parse(time.dateTime) / 1000);
const newest = runs.find((run) => run.curves);
const alike = runs.filter((run) => run.curves && run.dataset === newest.dataset && run.model === newest.model);
for (const run of alike.slice(0, 5)) view.ticked.add(run);
search();
drawCurves();
