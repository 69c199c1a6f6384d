function command(words) {
  const said = h("span", { role: "status", class: "small" });
  const button = h("button", { type: "button", "aria-label": `Copy ${words}`, onclick: async () => {
    const copied = await copyText(words);
    said.textContent = copied ? "Copied" : "Not allowed here";
    setTimeout(() => { said.textContent = ""; }, 2500);
  } }, "Copy");
  return h("div", { class: "command" }, h("code", {}, words), said, button);
}

function showProofs() {
  fill(byId("proof-command"), h("h3", {}, "Commands"), DATA.made.commands.map(command));
  const groups = rowsWithRuns().map(({ row }) => [row.name, runsOf(row).map((id) => [id, `${row.name}, seed ${DATA.runs[id].seed}`])]);
  options(byId("proof-run"), groups, runsOf(block().rows[block().verdict.row])[0]);
  byId("proof-run").parentElement.hidden = !groups.length;
  showProof();
  const remarks = [...DATA.notes];
  if (DATA.missing) remarks.push(`${plural(DATA.missing, "planned run")} ${DATA.missing === 1 ? "has" : "have"} no result yet.`);
  if (DATA.left_out.length) remarks.push(`Left out to keep this file below 2.5 MB: ${DATA.left_out.join("; ")}.`);
  const failed = DATA.failed.length ? [h("h3", {}, `Failed runs: ${count(DATA.failures)}`),
    DATA.failures > DATA.failed.length ? h("p", { class: "small" }, `The first ${count(DATA.failed.length)} are listed.`) : null, wide(table([{ title: "Run", text: true }, { title: "Label", text: true }, { title: "Seed" }, { title: "Error", text: true }],
    DATA.failed.map((one) => [one.run, one.label, one.seed === null ? UNKNOWN : String(one.seed), one.error])), "Failed runs")] : [];
  fill(byId("remarks"), failed, remarks.length ? h("h3", {}, "Remarks") : null, remarks.map((words) => h("p", {}, words)));
}

const WORDS = { supermask: "supermask", python: "Python", torch: "torch", numpy: "numpy", platform: "system", cpu: "processor", cores: "cores", device: "device", threads: "threads",
  "git.commit": "commit", "git.dirty": "changed since the commit", "data.name": "data", "data.checksum": "data, SHA-256", cuda_arithmetic: "CUDA arithmetic", OMP_WAIT_POLICY: "OMP_WAIT_POLICY" };

function showProof() {
  const id = byId("proof-run").value, run = DATA.runs[id];
  if (!run) return fill(byId("proof"), empty("Single runs were left out to keep this file small: report fewer settings to see them."));
  const told = run.environment === null ? null : DATA.environments[run.environment];
  const changed = run.changed === null ? null : DATA.changed[run.changed];
  const plain = (value) => value === true ? "yes" : value === false ? "no" : valueText(value);
  const versions = told ? wide(table([{ title: "What", text: true }, { title: "Version", text: true }], Object.entries(told).filter(([key]) => key !== "git.dirty" || told[key])
    .map(([key, value]) => [WORDS[key] || key, plain(value)])), "Versions") : empty("Not recorded in this run.");
  const config = changed ? table([{ title: "Key", text: true }, { title: "Value", text: true }], Object.entries(changed).filter(([, value]) => JSON.stringify(value) !== "{}").map(([key, value]) => [h("code", {}, key), valueText(value)]))
    : run.config && Object.keys(configOf(run)).length ? table([{ title: "Key", text: true }, { title: "Value", text: true }], Object.entries(configOf(run)).map(([key, value]) => [h("code", {}, key), valueText(value)])) : empty("Not recorded in this run.");
  const certificates = run.certificates.length ? wide(table([{ title: "Compared with the trained network", text: true }, { title: "Largest difference of an output" }, { title: "Same prediction, %" }, { title: "Examples" }],
    run.certificates.map((one) => [one.of, one.difference === null ? `failed: ${one.why || "not finite"}` : one.difference.toExponential(1).replace("-", MINUS), one.agreement === undefined ? UNKNOWN : percent(one.agreement), one.examples ? count(one.examples) : UNKNOWN])), "Certificates")
    : empty("None: `supermask pack` and `supermask verify` write one into a packed file in the folder of the run.");
  fill(byId("proof"), h("p", { class: "small" }, `Run ${id}, seed ${run.seed}.`), h("div", { class: "facts" },
    h("div", {}, h("h3", {}, changed ? "Config, where it differs from the defaults" : "Config"), wide(config, "Config")),
    h("div", {}, h("h3", {}, "Versions and data"), versions)), h("h3", {}, "Certificates"), certificates);
}
