const DATA = JSON.parse(document.getElementById("data").textContent);
const MINUS = "\u2212", UNKNOWN = "\u2013";
const byId = (id) => document.getElementById(id);
const state = { block: 0, axis: null, range: "near", focus: "", sort: null, filter: "" };

const block = () => DATA.blocks[state.block];
const rowsWithRuns = () => block().rows.map((row, index) => ({ row, index })).filter(({ row }) => runsOf(row).length);
const runsOf = (row) => row.runs.filter((id) => DATA.runs[id]);
/** The row of this block that holds a run; other blocks may share it. */
const rowOf = (run) => block().rows[run.rows[state.block]];

/** An element with properties, `data-`/`aria-` attributes, and children; null children are left out. */
function h(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const fill = (node, ...children) => node.replaceChildren(...children.flat().filter((child) => child !== null));

/** Options of a select: [value, words], or [group, [[value, words], ...]]. */
function options(select, entries, chosen) {
  const option = ([value, words]) => h("option", { value, selected: String(value) === String(chosen) }, words);
  fill(select, entries.map((entry) => Array.isArray(entry[1])
    ? h("optgroup", { label: entry[0] }, entry[1].map(option)) : option(entry)));
}

// numbers as people read them
const grouped = (text) => text.replace(/^(\d+)/, (digits) => digits.replace(/\B(?=(\d{3})+$)/g, ","));
const fixed = (digits) => (value) => (value < 0 ? MINUS : "") + grouped(Math.abs(value).toFixed(digits));
const percent = (value) => fixed(2)(100 * value);
const percentShort = (value) => fixed(100 * value < 10 ? 2 : 1)(100 * value);
const like = (value) => fixed(value ? Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value))))) : 2)(value);
/** Three significant digits, for costs. */
const short = (value) => fixed(value ? Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))) : 0)(value);
const signed = (form) => (value) => (value < 0 ? "" : "+") + form(value);
const count = (value) => fixed(0)(value);
const isAccuracy = () => block().metric === "accuracy";
const metricName = () => isAccuracy() ? "accuracy" : block().metric.split(":").pop();
const valueForm = () => isAccuracy() ? percent : like;
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

function bytesUnit(largest) {
  for (const [factor, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) if (largest >= 10 * factor) return [factor, name];
  return largest >= 1e3 ? [1e3, "kB"] : [1, "B"];
}

/** Whether a spread [mean, low, high, std, n] is more than one number. */
const varies = (spread, form) => spread[3] && form(spread[1]) !== form(spread[2]);
const spreadText = (spread, form) => spread === null ? UNKNOWN
  : form(spread[0]) + (varies(spread, form) ? ` [${form(spread[1])}, ${form(spread[2])}]` : "");
function spreadNode(spread, form) {
  if (spread === null) return UNKNOWN;
  if (!varies(spread, form)) return form(spread[0]);
  return [form(spread[0]), h("span", { class: "range" }, `[${form(spread[1])}, ${form(spread[2])}]`)];
}

/** A table; columns are {title, text}, rows arrays of words or nodes, the first cell the row's header. */
function table(columns, rows, caption) {
  const cell = (content, at) => at === 0
    ? h("th", { scope: "row", class: columns[0].text ? "text" : null }, content)
    : h("td", { class: columns[at].text ? "text" : null }, content);
  return h("table", {}, caption ? h("caption", {}, h("span", {}, caption)) : null,
    h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.text ? "text" : null }, c.title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))));
}
/** Lets people without a mouse scroll what is wider than the page. */
function scrollable(node, label) {
  node.tabIndex = 0;
  node.setAttribute("role", "region");
  node.setAttribute("aria-label", label);
}
const empty = (words) => h("p", { class: "empty" }, words);

/** The data of a chart as a table, made when it is asked for. */
function dataTable(columns, rows, label) {
  const place = h("div", { class: "scroll" });
  scrollable(place, label);
  const details = h("details", { class: "data", ontoggle: () => details.open && !place.firstChild && place.append(table(columns, rows())) },
    h("summary", {}, "Data of this chart"), place);
  return details;
}

const charts = new Map(); // element -> how to draw it again
/** Draw a chart into an element, as wide as it is; `make` gets the width and gives the spec. */
function draw(element, label, make) {
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  const inside = h("div", { "aria-hidden": "true" }); // its parts have no names of their own
  fill(element, inside);
  const again = async () => {
    const spec = make(Math.floor(element.clientWidth));
    const tooltip = { theme: "custom", disableDefaultStyle: true, sanitize: (value) => String(value).replace(/&/g, "&amp;").replace(/</g, "&lt;") };
    const done = await window.vegaEmbed(inside, spec, { mode: "vega-lite", config: DATA.charts.config, actions: false,
      renderer: "svg", ast: true, defaultStyle: false, tooltip });
    element.dataset.drawn = "true";
    return done.view;
  };
  charts.set(element, again);
  return again();
}
/** A name whose per cent signs stay with their numbers. */
const bound = (text) => String(text).replace(/ %/g, "\u00a0%");
const copyOf = (spec) => JSON.parse(JSON.stringify(spec));

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed where the page is no secure context
    const area = h("textarea", { class: "skip", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
  return true;
}
