function showAtlas() {
  const row = block().rows[Number(byId("setting").value)], layers = row.layers, id = runsOf(row)[0];
  const share = (part) => part === null ? UNKNOWN : percent(part);
  const isSigned = layers.some((layer) => layer.keep !== null);
  const warnings = layers.flatMap((layer) => [
    layer.empty ? `${layer.name} is empty in ${layer.empty} of ${plural(row.n, "run")}: nothing passes through it.` : null,
    layer.thin ? `${layer.name} has fewer weights left than outputs in ${layer.thin} of ${plural(row.n, "run")}: some outputs are constant.` : null,
  ]).filter(Boolean);
  fill(byId("warnings"), warnings.length ? h("div", { class: "warning", role: "note" }, warnings.slice(0, 6).map((words) => h("p", {}, words)),
    warnings.length > 6 ? h("p", {}, `${warnings.length - 6} further layers are as thin.`) : null) : []);
  const atlas = byId("atlas");
  scrollable(atlas, "Layers of the setting");
  fill(byId("atlas-legend"));
  if (!layers.length) {
    fill(atlas, empty("No layer is targeted by this method."));
  } else {
    const strip = (layer) => {
      const parts = layer.keep === null ? [["keep", layer.remaining]] : [["keep", layer.keep], ["invert", layer.invert]];
      return h("span", { class: "strip", "aria-hidden": "true" }, parts.map(([name, part]) => {
        const piece = h("i", { class: name });
        piece.style.width = `${100 * part}%`;
        return piece;
      }));
    };
    const macs = layers.some((layer) => macsOf(layer, layers) !== UNKNOWN);
    const head = [{ title: "Layer", text: true }, { title: "Remaining, %" },
      ...(isSigned ? [{ title: "Keep, %" }, { title: "Invert, %" }, { title: "Hide, %" }] : []), { title: "Weights" }, { title: "Shape" }, ...(macs ? [{ title: "MACs" }] : [])];
    fill(atlas, table(head, layers.map((layer) => [layer.name, h("span", { class: "share" }, share(layer.remaining), strip(layer)),
      ...(isSigned ? [share(layer.keep), share(layer.invert), share(layer.remaining === null ? null : 1 - layer.remaining)] : []),
      count(layer.size), layer.shape.join(" × "), ...(macs ? [macsOf(layer, layers)] : [])]), `Mean over ${plural(row.n, "run")}.`));
    const key = (name, words) => h("span", { class: "key" }, h("i", { class: name }), words);
    fill(byId("atlas-legend"), isSigned ? [key("keep", "keep"), key("invert", "invert"), key("hide", "hide")] : [key("keep", "remains"), key("hide", "hidden")]);
    if (!macs) byId("atlas-legend").append(h("span", {}, "MACs of single layers: not recorded in these runs."));
  }
  showPictures(row, id);
}

/** Remaining multiply-accumulates of a layer: as recorded; in networks of linear layers alone they are the weights. */
function macsOf(layer, layers) {
  if (layer.macs) return `${count(layer.macs[1])} of ${count(layer.macs[0])}`;
  return layers.every((one) => one.shape.length === 2) && (block().convention || "").includes("linear")
    && block().weights === layers.reduce((sum, one) => sum + one.size, 0) ? `${count(layer.remaining * layer.size)} of ${count(layer.size)}` : UNKNOWN;
}

function showPictures(row, id) {
  const pictures = id && DATA.runs[id].pictures, mask = byId("mask"), filters = byId("filters");
  const seed = id && DATA.runs[id].seed;
  const why = DATA.left_out.some((words) => words.startsWith("pictures")) ? "Left out to keep this file small: report fewer settings to see it." : "Not recorded in these runs.";
  const names = pictures ? Object.keys(pictures.masks) : [];
  byId("mask-field").hidden = names.length < 1;
  if (names.length) {
    const chosen = names.includes(byId("mask-layer").value) ? byId("mask-layer").value : names[0];
    options(byId("mask-layer"), names.map((name) => [name, name]), chosen);
    showMask(row, pictures.masks[chosen], chosen, seed);
  } else {
    fill(mask, empty(row.dense ? "A dense network hides nothing." : why));
  }
  const shown = pictures && pictures.filters;
  if (shown) {
    const alt = `${shown.shown} of ${shown.of} filters of ${shown.layer}, ${shown.side} pixels wide each, side by side`;
    const words = shown.colour ? "In colour, grey is 0." : "Blue is positive, grey is negative, empty is 0 or hidden.";
    const which = shown.shown < shown.of ? `The ${shown.shown} of ${shown.of} with the most weights` : `All ${shown.of}`;
    fill(filters, picture(shown, alt), h("figcaption", {}, `${which}, of seed ${seed}. ${words}`));
  } else {
    fill(filters, empty(pictures ? "The inputs of the first layer are no images." : why));
  }
}

function showMask(row, shown, name, seed) {
  const layer = row.layers.find((one) => one.name === name), [down, right] = shown.block;
  const alt = `Mask of ${name}: ${layer.shape.join(" by ")}, ${percent(layer.remaining)} % remain`;
  const pixel = down * right > 1 ? `A pixel is a block of ${down} × ${right} weights, stronger where more of them remain.` : "A pixel is a weight.";
  const colours = layer.keep === null ? "Blue remains." : "Blue is kept, grey inverted.";
  fill(byId("mask"), picture(shown, alt), h("figcaption", {}, `${shown.turned ? "A column is an output, a row an input." : "A row is an output, a column an input."} ${pixel} ${colours} Seed ${seed}.`));
}

const picture = (shown, alt) => h("img", { src: shown.src, alt, width: shown.width, height: shown.height });
