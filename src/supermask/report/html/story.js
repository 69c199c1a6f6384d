const MOST_PANELS = 10;

/** Runs of the setting that are told, each with the dense run of the same seed where there is one. */
function storyRuns(row) {
  const dense = block().baseline === null ? null : block().rows[block().baseline];
  return runsOf(row).map((id) => {
    const run = DATA.runs[id], other = dense && dense !== row ? runsOf(dense).find((one) => DATA.runs[one].seed === run.seed) : null;
    return { id, run, panel: `seed ${run.seed}`, dense: other ? DATA.runs[other] : null };
  });
}

function lineOf(curve, key, scale, panel, who, kind) {
  return curve.epoch.map((x, at) => ({ panel, line: who + kind + panel, x, y: curve[key][at] === null ? null : scale * curve[key][at], who, kind }))
    .filter((one) => one.y !== null);
}

/** A chart of small multiples with heading, caption and data. */
function panelFigure(place, title, caption, points, words) {
  const chart = h("div", { class: "chart" });
  const panels = [...new Set(points.map((one) => one.panel))];
  const rows = () => points.map((one) => [one.panel, [one.who, one.kind].filter(Boolean).join(", "), count(one.x), like(one.y)]);
  place.append(h("div", { class: "panel" }, h("h3", {}, title), h("figure", {}, chart, caption ? h("figcaption", {}, caption) : null),
    dataTable([{ title: words.panel, text: true }, { title: "Line", text: true }, { title: "Epoch" }, { title }], rows, `Data: ${title}`)));
  draw(chart, `${title} by epoch, ${plural(panels.length, "panel")}: ${panels.join(", ")}. The data follow as a table.`, (width) => {
    const spec = copyOf(DATA.charts.panels), columns = Math.min(panels.length, width < 420 ? 2 : width < 760 ? 3 : 5);
    spec.columns = columns;
    spec.spec.width = Math.min(320, Math.floor((width - 46 - 22 * (columns - 1)) / columns));
    spec.spec.height = Math.round(Math.min(150, Math.max(90, 0.7 * spec.spec.width)));
    const most = Math.max(...panels.map((panel) => new Set(points.filter((one) => one.panel === panel).map((one) => one.x)).size));
    spec.spec.encoding.y.scale.zero = Boolean(words.zero);
    if (most <= 12) spec.spec.mark.point = { size: 14, filled: true };
    spec.datasets = { curves: points };
    return spec;
  });
}

function showStory() {
  const row = block().rows[Number(byId("story-setting").value)], place = byId("story");
  for (const element of [...charts.keys()]) if (place.contains(element)) charts.delete(element);
  fill(place);
  const all = storyRuns(row), told = all.filter((one) => one.run.curve).slice(0, MOST_PANELS);
  const key = (name, words) => h("span", { class: "key" }, h("i", { class: `stroke ${name}` }), words);
  const compared = told.some((one) => one.dense && one.dense.curve);
  fill(byId("story-legend"), told.length ? [h("span", { class: "key" }, "By epoch:"), key("", row.dense ? "dense" : "this setting"), compared ? key("other", "dense, same seed") : null, key("dotted", "training loss")] : []);
  if (!told.length) return fill(place, empty("No curves: not recorded in these runs."));
  const more = all.length > told.length ? ` ${told.length} of ${all.length} seeds are shown.` : "";
  const scale = isAccuracy() ? 100 : 1;
  const measured = (name, factor) => told.flatMap((one) => [
    ...lineOf(one.run.curve, name, factor, one.panel, "setting", "test"),
    ...(one.dense && one.dense.curve ? lineOf(one.dense.curve, name, factor, one.panel, "dense", "test") : []),
  ]);
  const loss = [...measured("test", 1), ...told.flatMap((one) => lineOf(one.run.curve, "train", 1, one.panel, "setting", "train"))];
  panelFigure(place, "Loss", `Solid on the test set, dotted in training.${more}`, loss, { panel: "Seed", zero: true });
  panelFigure(place, isAccuracy() ? "Accuracy, %" : capital(metricName()), "On the test set.", measured("value", scale), { panel: "Seed" });
  const density = told.flatMap((one) => lineOf(one.run.curve, "density", 100, one.panel, "setting", "test"));
  panelFigure(place, "Remaining weights, %", row.dense ? "" : "Of the targeted weights.", density, { panel: "Seed", zero: true });
  const churn = told.some((one) => one.run.churn), scores = all.some((one) => one.run.scores);
  if (churn) showChurn(place, told, more);
  if (scores) showScores(place, row, all);
  const lacking = [churn ? null : "mask churn", scores ? null : "score histograms"].filter(Boolean);
  const left = DATA.left_out.some((words) => /^(mask churn|score)/.test(words));
  if (lacking.length) place.append(h("h3", {}, capital(lacking.join(" and "))), empty(left ? "Left out to keep this file small: report fewer settings to see it." : "Not recorded in these runs."));
}

function showChurn(place, told, more) {
  const layers = [...new Set(told.flatMap((one) => one.run.churn ? Object.keys(one.run.churn.layers) : []))];
  const shown = layers.length <= MOST_PANELS ? layers
    : layers.filter((_, at) => Math.round(at * (MOST_PANELS - 1) / (layers.length - 1)) !== Math.round((at - 1) * (MOST_PANELS - 1) / (layers.length - 1)));
  const points = shown.flatMap((layer) => told.flatMap((one) => {
    const churn = one.run.churn, values = churn && churn.layers[layer];
    return values ? churn.epoch.map((x, at) => ({ panel: layer, line: one.panel, x, y: values[at] === null ? null : 100 * values[at], who: "setting", kind: "test" })) : [];
  })).filter((one) => one.y !== null);
  const left = shown.length < layers.length ? ` ${shown.length} of ${layers.length} layers are shown.` : "";
  panelFigure(place, "Mask churn, %", `Share of a layer's weights whose mask flips in a step, mean over the epoch; a line a seed.${left}${more}`, points, { panel: "Layer", zero: true });
}

function showScores(place, row, all) {
  const one = all.find((entry) => entry.run.scores);
  const cells = Object.entries(one.run.scores).flatMap(([panel, told]) => told.counts.flatMap((counts, at) => {
    const total = counts.reduce((sum, part) => sum + part, 0), next = told.epoch[at + 1];
    const to = next === undefined ? told.epoch[at] + 1 : next;
    return counts.map((part, bin) => ({ panel, from: told.epoch[at], to, low: told.edges[bin], high: told.edges[bin + 1], share: part / total })).filter((cell) => cell.share > 0);
  }));
  const layers = Object.keys(one.run.scores), chart = h("div", { class: "chart" });
  const rows = () => cells.map((cell) => [cell.panel, count(cell.from), `${like(cell.low)} to ${like(cell.high)}`, percent(cell.share)]);
  place.append(h("div", { class: "panel" }, h("h3", {}, "Scores"), h("figure", {}, chart, h("figcaption", {},
    `How the scores of a layer spread from epoch to epoch: the stronger, the more weights. ${capital(one.panel)}.`)),
  dataTable([{ title: "Layer", text: true }, { title: "Epoch" }, { title: "Score" }, { title: "Weights, %" }], rows, "Data: scores")));
  draw(chart, `Histogram of the scores by epoch, ${plural(layers.length, "layer")}: ${layers.join(", ")}. The data follow as a table.`, (width) => {
    const spec = copyOf(DATA.charts.histograms), columns = Math.min(layers.length, width < 480 ? 1 : 3);
    spec.columns = columns;
    spec.spec.width = Math.min(320, Math.floor((width - 30 - 60 * columns) / columns));
    spec.datasets = { cells };
    return spec;
  });
}
