function showVerdict() {
  const told = block().verdict;
  fill(byId("sentence"), bound(told.sentence));
  fill(byId("numbers"), told.numbers.map((one) => h("div", {}, h("dt", {}, one.label),
    h("dd", { class: "big" }, one.value === null ? UNKNOWN : one.value, one.value !== null && one.unit ? h("span", {}, one.unit) : null),
    one.details.map((words) => h("dd", { class: "detail" }, bound(words))))));
  fill(byId("machine"), [told.machine + ".", told.note].filter(Boolean).join(" "));
}

/** Selects of settings whose runs are told; the verdict's first. */
function showSettings() {
  const entries = rowsWithRuns().map(({ row, index }) => [index, row.name]);
  const chosen = entries.some(([index]) => index === block().verdict.row) ? block().verdict.row : (entries[0] || [0])[0];
  const all = entries.length ? entries : block().rows.map((row, index) => [index, row.name]);
  options(byId("setting"), block().rows.map((row, index) => [index, row.name]), block().verdict.row);
  options(byId("story-setting"), all, chosen);
}

function showBlock() {
  charts.clear();
  state.sort = null;
  showVerdict();
  showTradeoff();
  showTable();
  showSettings();
  showAtlas();
  showStory();
  showRunChoices();
  showPair();
  showProofs();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to the ${name === "dark" ? "light" : "dark"} theme`);
}
function remembered(name) {
  try {
    if (name) localStorage.setItem("supermask-theme", name);
    return localStorage.getItem("supermask-theme");
  } catch { // a browser may forbid it: then the system's theme it is
    return null;
  }
}

function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(remembered() || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => remembered() || setTheme(dark.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    remembered(next);
    setTheme(next);
  });
  byId("about").textContent = DATA.about;
  byId("made").textContent = `Made by supermask ${DATA.made.version} on ${DATA.made.date}. This file holds everything it shows, and asks for nothing from the network.`;
  if (!DATA.blocks.length) {
    fill(byId("main"), byId("main").querySelector(".title"), empty("No finished run here yet."));
    return;
  }
  options(byId("block"), DATA.blocks.map((one, index) => [index, `${one.experiment}: ${one.name}, ${plural(one.examples, "example")}`]), 0);
  byId("pick-block").hidden = DATA.blocks.length < 2;
  byId("block").addEventListener("change", (event) => { state.block = Number(event.target.value); state.focus = ""; showBlock(); });
  byId("focus").addEventListener("change", (event) => { state.focus = event.target.value; showTradeoff(); });
  byId("filter").addEventListener("input", (event) => { state.filter = event.target.value; showTable(); });
  byId("setting").addEventListener("change", showAtlas);
  byId("mask-layer").addEventListener("change", showAtlas);
  byId("story-setting").addEventListener("change", showStory);
  for (const side of ["left", "right"]) byId(side).addEventListener("change", showPair);
  byId("proof-run").addEventListener("change", showProof);
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const copied = await copyText(tableAs(button.dataset.copy));
      byId("copied").textContent = copied ? `Copied as ${button.textContent}` : "Copying is not allowed here";
      setTimeout(() => { byId("copied").textContent = ""; }, 2500);
    });
  }
  scrollable(byId("pareto-data"), "Data of the chart");
  showBlock();
  let width = document.documentElement.clientWidth, waiting = 0;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => charts.forEach((again) => again()), 150);
  });
  const links = new Map([...document.querySelectorAll(".bar a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  links.forEach((_, id) => seen.observe(byId(id)));
}
start();
