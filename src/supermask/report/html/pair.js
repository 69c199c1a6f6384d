function showRunChoices() {
  const groups = rowsWithRuns().map(({ row }) => [row.name, runsOf(row).map((id) => [id, `${row.name}, seed ${DATA.runs[id].seed}`])]);
  const headline = block().rows[block().verdict.row], base = block().baseline === null ? null : block().rows[block().baseline];
  const ids = groups.flatMap(([, entries]) => entries.map(([id]) => id));
  const left = runsOf(headline)[0] || ids[0];
  const right = (base && base !== headline && runsOf(base)[0]) || ids.find((id) => id !== left) || left;
  options(byId("left"), groups, left);
  options(byId("right"), groups, right);
}

const valueText = (value) => value === undefined ? UNKNOWN : value === null ? "none" : Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
/** The whole config of a run, dotted keys. */
function configOf(run) {
  const whole = { ...DATA.config, ...run.config };
  for (const key of run.lacks) delete whole[key];
  return whole;
}
const nameOf = (run) => `${rowOf(run).name}, seed ${run.seed}`;

function showPair() {
  const place = byId("comparison"), [a, b] = ["left", "right"].map((side) => DATA.runs[byId(side).value]);
  if (!a || !b) return fill(place, empty("Single runs were left out to keep this file small: report fewer settings to see them."));
  if (a === b) return fill(place, empty("The same run twice: choose two."));
  fill(place, h("h3", {}, "Result"), outcomes(a, b), h("h3", {}, "Config"), configDifference(a, b), h("h3", {}, "Layers"), layerDifference(a, b), h("h3", {}, "Test examples"), ...predictionDifference(a, b));
}

const wide = (node, label) => { const place = h("div", { class: "scroll" }, node); scrollable(place, label); return place; };

function outcomes(a, b) {
  const form = valueForm(), last = (run, key) => { const known = run.curve ? run.curve[key].filter((one) => one !== null) : []; return known.length ? known[known.length - 1] : null; };
  const line = (title, key, shown) => { const [x, y] = [last(a, key), last(b, key)];
    return [title, x === null ? UNKNOWN : shown(x), y === null ? UNKNOWN : shown(y), x === null || y === null ? UNKNOWN : signed(shown)(y - x)]; };
  return wide(table([{ title: "Last epoch", text: true }, { title: nameOf(a) }, { title: nameOf(b) }, { title: "Difference" }], [
    line(capital(metricName()) + (isAccuracy() ? ", %" : ""), "value", form), line("Test loss", "test", fixed(4)), line("Training loss", "train", fixed(4)),
    line("Remaining weights, %", "density", percent)]), "Results of the two runs");
}

function configDifference(a, b) {
  const [x, y] = [configOf(a), configOf(b)];
  const keys = [...new Set([...Object.keys(x), ...Object.keys(y)])].filter((key) => JSON.stringify(x[key]) !== JSON.stringify(y[key])).sort();
  if (!keys.length) return empty(a.seed === b.seed ? "The configs are the same." : `The configs are the same; the seeds are ${a.seed} and ${b.seed}.`);
  return wide(table([{ title: "Key", text: true }, { title: nameOf(a), text: true }, { title: nameOf(b), text: true }],
    keys.map((key) => [h("code", {}, key), valueText(x[key]), valueText(y[key])])), "Config of the two runs");
}

function layerDifference(a, b) {
  const layers = (run) => rowOf(run).layers.map((layer, at) => ({ ...layer, parts: run.layers[at] }));
  const [x, y] = [layers(a), layers(b)], names = [...new Set([...x, ...y].map((layer) => layer.name))];
  if (!names.length) return empty("Neither run targets a layer.");
  const isSigned = [...x, ...y].some((layer) => layer.keep !== null);
  const share = (layer, part) => layer && layer.parts && layer.parts[part] !== null ? layer.parts[part] / layer.size : null;
  const text = (value) => value === null ? UNKNOWN : percent(value);
  const rows = names.map((name) => {
    const [p, q] = [x, y].map((all) => all.find((layer) => layer.name === name));
    const [r, s] = [share(p, 0), share(q, 0)];
    const signs = (layer) => layer && layer.parts && layer.parts[1] !== null ? `${text(share(layer, 1))} / ${text(share(layer, 2))}` : UNKNOWN;
    return [name, (p || q).shape.join(" × "), text(r), text(s), r === null || s === null ? UNKNOWN : signed(percent)(s - r), ...(isSigned ? [signs(p), signs(q)] : [])];
  });
  return wide(table([{ title: "Layer", text: true }, { title: "Shape" }, { title: "First, %" }, { title: "Second, %" }, { title: "Points" },
    ...(isSigned ? [{ title: "First: keep / invert" }, { title: "Second: keep / invert" }] : [])], rows, "Weights that remain."), "Layers of the two runs");
}

/** Predicted classes of a run, from where they differ from the targets. */
function predictionsOf(run) {
  const base = DATA.targets[run.block];
  if (!base || !run.predictions) return null;
  const found = base.is.slice();
  run.predictions.at.reduce((at, step, index) => { found[at + step] = run.predictions.is[index]; return at + step; }, 0);
  return found;
}

function predictionDifference(a, b) {
  const [x, y] = [predictionsOf(a), predictionsOf(b)];
  if (!x || !y) return [empty(DATA.left_out.some((words) => words.startsWith("predictions")) ? "Left out to keep this file small: report fewer settings to see it." : "Predictions were not recorded in these runs.")];
  const base = DATA.targets[a.block], changed = [...x.keys()].filter((at) => x[at] !== y[at]);
  if (!changed.length) return [empty(`Both runs predict the same class for all ${count(x.length)} test examples.`)];
  const sentence = [`The prediction changes for ${count(changed.length)} of ${plural(x.length, "test example")}.`];
  if (base.known) {
    const gained = changed.filter((at) => y[at] === base.is[at]).length, lost = changed.filter((at) => x[at] === base.is[at]).length;
    sentence.push(`The second run is right where the first is wrong ${gained === 1 ? "once" : `${count(gained)} times`}, and wrong where it is right ${lost === 1 ? "once" : `${count(lost)} times`}.`);
  }
  const most = 300, head = [{ title: "Example" }, ...(base.known ? [{ title: "Class" }] : []), { title: "First" }, { title: "Second" }];
  const rows = () => changed.slice(0, most).map((at) => [count(at), ...(base.known ? [String(base.is[at])] : []), String(x[at]), String(y[at])]);
  const details = dataTable(head, rows, "Examples whose prediction changes");
  details.querySelector("summary").textContent = changed.length > most ? `The first ${most} of these examples` : "These examples";
  return [h("p", {}, sentence.join(" ")), h("p", { class: "small" }, "Examples count from 0 in the order of the test set."), details];
}
