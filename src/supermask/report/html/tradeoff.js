function axes() {
  const known = (key) => block().rows.some((row) => !row.dense && row[key]);
  const sizes = block().rows.filter((row) => !row.dense && row.bytes).map((row) => row.bytes[0]);
  const [factor, unit] = bytesUnit(Math.max(1, ...sizes));
  return [
    { key: "density", words: "Remaining weights", title: "remaining weights, %", form: (v) => `${percentShort(v)} %`, of: (v) => 100 * v },
    { key: "macs", words: "MACs", title: "multiply-accumulates, % of dense", form: (v) => `${percentShort(v)} %`, of: (v) => 100 * v },
    { key: "bytes", words: "Size", title: `size ${block().bytes || ""}, ${unit}`, form: (v) => `${short(v / factor)} ${unit}`, of: (v) => v / factor },
    { key: "latency", words: "Latency", title: "latency of inference, ms", form: (v) => `${short(v)} ms`, of: (v) => v },
  ].map((axis) => ({ ...axis, known: known(axis.key) }));
}

/** Ends of the vertical axis: all rows, or those that come near the best; null where the two are the same. */
function reach() {
  const worse = (a, b) => block().better === "lower" ? a > b : a < b;
  const shown = block().rows.filter((row) => row.value);
  const ends = shown.flatMap((row) => row.value.slice(0, 3));
  const all = [Math.min(...ends), Math.max(...ends)];
  const values = shown.map((row) => row.value[0]).sort((a, b) => a - b);
  if (block().better === "lower") values.reverse();
  const best = values[values.length - 1], quarter = values[Math.floor(values.length / 3)];
  const limit = best + 2.2 * (quarter - best);
  const outside = shown.filter((row) => worse(row.value[0], limit));
  const pad = ([low, high]) => [low - 0.04 * (high - low || Math.abs(high) || 1), high + 0.06 * (high - low || Math.abs(high) || 1)];
  if (!outside.length || outside.length > shown.length / 2) return { all: pad(all), near: null, outside: [] };
  return { all: pad(all), near: pad(block().better === "lower" ? [all[0], limit] : [limit, all[1]]), outside };
}

function tradeoffData(axis) {
  const scale = isAccuracy() ? 100 : 1, form = valueForm(), unit = isAccuracy() ? " %" : "";
  const settings = block().rows.filter((row) => !row.dense && row.value && row[axis.key] && row[axis.key][0] > 0).map((row) => ({
    label: row.name, series: row.series, x: axis.of(row[axis.key][0]), value: scale * row.value[0], low: scale * row.value[1],
    high: scale * row.value[2], n: row.n, quality: spreadText(row.value, form) + unit, cost: spreadText(row[axis.key], axis.form),
  })).sort((a, b) => a.x - b.x);
  const base = block().baseline === null ? null : block().rows[block().baseline].value;
  const dense = base ? [{ value: scale * base[0], low: scale * base[1], high: scale * base[2] }] : [];
  const published = axis.key !== "density" ? [] : block().published.map((one) => ({
    label: one.label, source: one.source, word: one.word, x: 100 * one.density, value: 100 * one.value[0],
    quality: `${percent(one.value[0])} %`, cost: `${percentShort(one.density)} %`,
  }));
  return { settings, dense, published };
}

function showTradeoff() {
  const known = axes(), chart = byId("pareto"), caption = byId("pareto-caption");
  if (!known.some((axis) => axis.known && axis.key === state.axis)) state.axis = (known.find((axis) => axis.known) || known[0]).key;
  const axis = known.find((one) => one.key === state.axis);
  fill(byId("axis"), h("legend", {}, "Against"), known.filter((one) => one.known).map((one) => h("button", { type: "button",
    "aria-pressed": String(one.key === state.axis), onclick: () => { state.axis = one.key; showTradeoff(); refocus("axis"); } }, one.words)));
  const { settings, dense, published } = tradeoffData(axis);
  if (!settings.length) {
    fill(chart, empty("Nothing to draw: no finished run here is sparse."));
    fill(caption);
    byId("axis").hidden = byId("range").hidden = true;
    byId("focus").parentElement.hidden = byId("tradeoff").querySelector("details").hidden = true;
    return;
  }
  byId("axis").hidden = false;
  byId("focus").parentElement.hidden = byId("tradeoff").querySelector("details").hidden = false;
  const { all, near, outside } = reach();
  byId("range").hidden = !near;
  fill(byId("range"), h("legend", {}, "Show"), [["near", "Near the best"], ["all", "All"]].map(([key, words]) => h("button", { type: "button",
    "aria-pressed": String(key === state.range), onclick: () => { state.range = key; showTradeoff(); refocus("range"); } }, words)));
  const series = [...new Set(settings.map((one) => one.series))];
  if (!series.includes(state.focus)) state.focus = block().rows[block().verdict.row].series;
  if (!series.includes(state.focus)) state.focus = series[0];
  options(byId("focus"), series.map((name) => [name, name]), state.focus);
  const ends = (near && state.range === "near" ? near : all).map((end) => (isAccuracy() ? 100 : 1) * end);
  const title = isAccuracy() ? "accuracy, %" : metricName();
  draw(chart, `${capital(title)} against ${axis.title}: ${settings.length} settings, ${state.focus} in colour. The data follow as a table.`, (width) => {
    const spec = copyOf(DATA.charts.pareto);
    Object.assign(spec, { width: width - 62, height: Math.round(Math.min(430, Math.max(260, 0.5 * width))), datasets: { settings, dense, published } });
    spec.params = spec.params.map((one) => ({ ...one, value: { focus: state.focus, bottom: ends[0], top: ends[1] }[one.name] }));
    spec.layer = spec.layer.filter((layer) => spec.datasets[layer.data.name].length); // Vega warns of scales without data
    for (const layer of spec.layer) {
      if (layer.encoding.x && layer.encoding.x.field) layer.encoding.x.title = axis.title;
      if (layer.encoding.y.field) layer.encoding.y.title = title;
    }
    return spec;
  }).then((view) => view.addEventListener("click", (event, item) => {
    if (item && item.datum && item.datum.series && item.datum.series !== state.focus) { state.focus = item.datum.series; showTradeoff(); }
  }));
  const parts = [`Each mark is a setting, mean over its runs; bars, and the band of the series in colour, are the 5 % and 95 % quantiles.`];
  if (dense.length) parts.push("Dashed: the dense network, with its band.");
  if (published.length) parts.push("Hollow: published numbers, not measured here; the table below names their sources.");
  if (near && state.range === "near") {
    const some = outside.slice(0, 4).map((row) => row.name).join("; ");
    parts.push(`Outside this range: ${outside.length > 4 ? `${outside.length} settings, among them ${some}` : some}.`);
  }
  const missing = known.filter((one) => !one.known).map((one) => one.words);
  if (missing.length) parts.push(`${capital(missing.join(" and ").toLowerCase().replace("macs", "MACs"))}: not recorded in these runs.`);
  fill(caption, parts.join(" "));
  const lines = [...settings.map((one) => [one.label, one.quality, one.cost, count(one.n), "measured here"]),
    ...published.map((one) => [one.label, one.quality, one.cost, UNKNOWN, `${one.source} (${one.word})`])];
  fill(byId("pareto-data"), table([{ title: "Setting", text: true }, { title: capital(title) }, { title: capital(axis.title) }, { title: "Runs" }, { title: "Source", text: true }], lines));
}
/** The pressed button of a group that was drawn anew keeps the keyboard's focus. */
function refocus(id) { byId(id).querySelector('[aria-pressed="true"]').focus(); }
