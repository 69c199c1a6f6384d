function columns() {
  const form = valueForm(), unit = isAccuracy() ? ", %" : "";
  const sizes = block().rows.filter((row) => row.bytes && !row.dense).map((row) => row.bytes[0]);
  const [factor, bytes] = bytesUnit(Math.max(1, ...sizes));
  // costs as means, with their quantiles in the CSV: the table is for reading
  const spread = (key, title, shown, raw, whole) => ({ key, title, raw, text: (row) => whole ? spreadText(row[key], shown) : row[key] ? shown(row[key][0]) : UNKNOWN,
    node: (row) => whole ? spreadNode(row[key], shown) : row[key] ? shown(row[key][0]) : UNKNOWN,
    order: (row) => row[key] && row[key][0], numbers: (row) => row[key] ? row[key].slice(0, 3) : ["", "", ""], parts: ["", " 5 %", " 95 %"] });
  const difference = signed(form);
  const delta = (row) => !row.delta ? UNKNOWN : difference(row.delta.mean)
    + (row.delta.low === null ? "" : ` [${difference(row.delta.low)}, ${difference(row.delta.high)}]${row.delta.trusted ? "" : "†"}`);
  const known = [
    { key: "name", title: "Setting", raw: "setting", text: (row) => row.name, order: (row) => row.name, numbers: (row) => [row.name], parts: [""] },
    spread("value", capital(metricName()) + unit, form, metricName(), true),
    { key: "delta", title: isAccuracy() ? "To dense, points" : "To dense", raw: "difference to dense", text: delta, order: (row) => row.delta && row.delta.mean,
      node: (row) => !row.delta ? UNKNOWN : [difference(row.delta.mean), row.delta.low === null ? null
        : h("span", { class: "range" }, `[${difference(row.delta.low)}, ${difference(row.delta.high)}]${row.delta.trusted ? "" : "†"}`)],
      numbers: (row) => row.delta ? [row.delta.mean, row.delta.low ?? "", row.delta.high ?? ""] : ["", "", ""], parts: ["", " low", " high"] },
    { key: "ranks", title: "Rank", raw: "rank", text: (row) => row.rank === null ? UNKNOWN : row.rank + (row.ranks ? ` [${row.ranks[0]}, ${row.ranks[1]}]` : ""),
      order: (row) => row.rank, node: (row) => row.rank === null ? UNKNOWN : [String(row.rank), row.ranks ? h("span", { class: "range" }, `[${row.ranks[0]}, ${row.ranks[1]}]`) : null],
      numbers: (row) => [row.rank ?? "", row.ranks ? row.ranks[0] : "", row.ranks ? row.ranks[1] : ""], parts: ["", " best", " worst"] },
    { key: "n", title: "Runs", raw: "n", text: (row) => count(row.n), order: (row) => row.n, numbers: (row) => [row.n], parts: [""] },
    spread("density", "Remaining, %", percent, "density"),
    spread("macs", "MACs, %", percent, "macs share"),
    spread("bytes", `Size, ${bytes}`, (v) => short(v / factor), "bytes"),
    spread("latency", "Latency, ms", short, "latency ms"),
    spread("step", "Step, ms", short, "training step ms"),
  ];
  // shares of multiply-accumulates that are those of the weights say nothing new
  const same = block().rows.every((row) => row.macs && row.density && Math.abs(row.macs[0] - row.density[0]) < 1e-6);
  return known.filter((column) => column.key === "name" || (!(column.key === "macs" && same) && block().rows.some((row) => column.order(row) !== null)));
}

function sortedRows() {
  const { key, down } = state.sort, column = columns().find((one) => one.key === key);
  const words = state.filter.toLowerCase();
  const kept = block().rows.filter((row) => row.name.toLowerCase().includes(words) || row.method.includes(words));
  return kept.map((row, at) => [column.order(row), at, row]).sort(([a, i], [b, j]) => {
    if (a === null || b === null) return (a === null) - (b === null) || i - j; // what is not known comes last
    const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return (down ? -order : order) || i - j;
  }).map(([, , row]) => row);
}

function showTable() {
  const shown = columns(), place = byId("results");
  if (!state.sort || !shown.some((one) => one.key === state.sort.key)) state.sort = { key: "value", down: block().better !== "lower" };
  const head = shown.map((column) => h("th", { scope: "col", class: column.key === "name" ? "text" : null,
    "aria-sort": state.sort.key === column.key ? (state.sort.down ? "descending" : "ascending") : null },
  h("button", { type: "button", "data-sort": column.key, onclick: () => {
    const same = state.sort.key === column.key;
    state.sort = { key: column.key, down: same ? !state.sort.down : !["name", "ranks", "bytes", "density", "macs", "latency", "step"].includes(column.key) };
    showTable();
    byId("results").querySelector(`[data-sort="${column.key}"]`).focus();
  } }, column.title)));
  const rows = sortedRows();
  const headline = block().rows[block().verdict.row];
  fill(place, h("table", {}, h("caption", {}, h("span", {}, `${block().name}, ${count(block().examples)} training examples. Mean [5 %, 95 %] over the runs, last epoch; costs are means.`)),
    h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) => h("tr", { class: row === headline && !row.dense ? "headline" : row.dense ? "dense" : null },
      shown.map((column) => column.key === "name" ? h("th", { scope: "row", class: "text" }, bound(row.name)) : h("td", {}, column.node ? column.node(row) : column.text(row))))))));
  if (!rows.length) place.append(empty("No setting has these words in its name."));
  scrollable(place, "Results");
  byId("filter-field").hidden = block().rows.length < 13;
  fill(byId("results-notes"), tableNotes(shown).map((words) => h("p", {}, words)));
}

function tableNotes(shown) {
  const has = (key) => shown.some((column) => column.key === key), rows = block().rows;
  const notes = [];
  if (has("delta")) notes.push("To dense: mean difference over runs of equal seed and batches [95 % bootstrap interval].");
  if (has("ranks")) notes.push("Rank: by the mean [best and worst rank that the intervals of all paired differences leave]; not corrected for the number of rows.");
  if (rows.some((row) => row.delta && row.delta.low !== null && !row.delta.trusted)) notes.push("† fewer than 5 pairs: trust neither the interval nor the rank.");
  if (rows.some((row) => row.n > 1 && row.n < 20)) notes.push("Below 20 runs the quantiles are estimated by interpolation.");
  if (has("bytes")) notes.push(`Size: ${block().bytes}; of dense rows float32.`);
  if (has("step")) notes.push("Step: training time of an optimizer step, data included; compare it on one machine only.");
  for (const row of rows) for (const [text, n] of row.notes.slice(0, 1)) notes.push(`${row.name} (${n} of ${plural(row.n, "run")}): ${text}`);
  return notes.length > 14 ? [...notes.slice(0, 14), `${notes.length - 14} further notes of methods are left out here.`] : notes;
}

const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "†": "\\textdagger{}", "\u2212": "$-$", "\u2013": "--",
  "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}" };
const latex = (text) => [...text].map((letter) => LATEX[letter] || letter).join("");
const markdown = (text) => text.replace(/[\\|*_`]/g, (letter) => `\\${letter}`);
const csv = (value) => /[",\n]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : String(value);

/** The table as it is shown, sorted and filtered, as text. */
function tableAs(kind) {
  const shown = columns(), rows = sortedRows();
  if (kind === "csv") {
    const head = shown.flatMap((column) => column.parts.map((part) => column.raw + part));
    return [head, ...rows.map((row) => shown.flatMap((column) => column.numbers(row)))].map((line) => line.map(csv).join(",")).join("\n") + "\n";
  }
  const cells = rows.map((row) => shown.map((column) => column.text(row)));
  if (kind === "markdown") {
    const line = (texts) => `| ${texts.map(markdown).join(" | ")} |`;
    return [line(shown.map((column) => column.title)), `| ${shown.map((_, at) => at ? "--:" : ":--").join(" | ")} |`, ...cells.map(line)].join("\n") + "\n";
  }
  // a bracket at the start of a line would be read as an argument of the line break before it
  const line = (texts) => `    ${texts.map(latex).map((text, at) => !at && /^[[*]/.test(text) ? `{}${text}` : text).join(" & ")} \\\\`;
  return ["% needs \\usepackage{booktabs}", "\\begin{table}", "  \\centering", `  \\caption{${latex(`${block().name}: mean [5 %, 95 %] over the runs, last epoch`)}}`,
    `  \\begin{tabular}{@{}l${"r".repeat(shown.length - 1)}@{}}`, "    \\toprule", line(shown.map((column) => column.title)), "    \\midrule", ...cells.map(line),
    "    \\bottomrule", "  \\end{tabular}", "\\end{table}"].join("\n") + "\n";
}
