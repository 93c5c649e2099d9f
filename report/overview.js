"use strict";
// The top of the page: whether routing is balanced, what is odd, and a line a layer.
(() => {
  const { make, makeSvg, data, numbers, selection, findings, verdict } = moetap;

  const facts = () => {
    const { component } = selection.state;
    const list = [];
    const fact = (name, value) => {
      if (value !== null && value !== undefined && value !== "") list.push([name, value]);
    };
    /** Of both runs, once where it is the same. */
    const both = (name, of) => {
      const values = data.runs.map((run, i) => of(run, data.layers(component, i))).filter((value) => value !== null && value !== undefined && value !== "");
      fact(name, data.distinct(values.map(String)).join(" → "));
    };
    const kinds = (layers, key) => data.distinct(layers.map((layer) => layer[key])).filter((value) => value !== null && value !== undefined && value !== "");
    both(data.runs.length > 1 ? "Runs" : "", (run) => (data.runs.length > 1 ? moetap.short(run.label, 60) : null));
    both("Model", (run) => moetap.short(run.model ?? "", 60));
    both("Forwards", (run) => (numbers.isNumber(run.forwards) ? numbers.text(run.forwards) : null));
    both("Tokens", (_, layers) => (layers.length ? numbers.text(Math.max(...layers.map((layer) => layer.tokens))) : null));
    both("Layers with routers", (_, layers) => layers.length || null);
    both("Experts a token", (_, layers) => (kinds(layers, "num_experts").length ? `${kinds(layers, "top_k").join(" / ") || "?"} of ${kinds(layers, "num_experts").join(" / ")}` : null));
    both("Scoring", (_, layers) => kinds(layers, "scoring").join(", "));
    return make("dl", { class: "facts" }, list.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
  };

  const verdictCard = (result, id, name, map) => {
    if (!result) return null;
    const target = selection.hash({ component: result.component ?? selection.state.component, figure: result.figure ?? "usage", layer: result.layer ?? null, expert: result.expert ?? null });
    return make("div", { class: `card verdict ${result.level}`, id }, make("div", {}, make("span", { class: "sign" }, name ? `${moetap.short(name, 40)}: ${result.sign}` : result.sign),
      make("p", {}, result.text, " ", result.detail ? make("a", { href: target }, result.detail) : null)), map);
  };

  /** A card a run; of two, side by side. */
  const verdicts = () => {
    const isPair = data.runs.length > 1;
    const cards = data.runs.map((run, i) => verdictCard(verdict.ofRun(i), `verdict-${i}`, isPair ? run.label : null, loadMap(i))).filter(Boolean);
    if (!cards.length) cards.push(...[verdictCard(verdict.ofTraining(), "verdict-training", null, null)].filter(Boolean));
    return cards.length > 1 ? make("div", { class: "two" }, cards) : cards[0] ?? null;
  };

  const kMapWidth = 300, kMapHeight = 150;

  /** The load of every expert of every layer at one look: a cell each, orange above an even load and blue below. */
  const loadMap = (run) => {
    const layers = data.layers(selection.state.component, run).filter((layer) => layer.load_ratio?.length);
    if (!layers.length) return null;
    const columns = Math.max(...layers.map((layer) => layer.load_ratio.length)), canvas = make("canvas", { class: "load-map", width: 2 * kMapWidth, height: 2 * kMapHeight, role: "img", "aria-label": `Load of ${columns} experts in ${numbers.count(layers.length, "layer")} against an even load; the figure Layer × expert has the numbers` });
    const paint = canvas.getContext("2d"), width = canvas.width / columns, height = canvas.height / layers.length, gap = Math.min(width, height) > 12 ? 2 : 0;
    // The scale is that of the figure: half and double lie equally far from an even load.
    const steps = layers.map((layer) => layer.load_ratio.map((ratio) => Math.log2(Math.max(ratio, 1 / 16))));
    const most = Math.min(4, steps.flat().reduce((all, step) => Math.max(all, Math.abs(step)), 1));
    steps.forEach((ofLayer, row) => ofLayer.forEach((step, column) => {
      paint.fillStyle = moetap.theme.colorAt("change", (Math.max(-most, Math.min(most, step)) + most) / (2 * most));
      paint.fillRect(column * width, row * height, Math.max(1, width - gap), Math.max(1, height - gap));
    }));
    const cell = (event) => {
      const box = canvas.getBoundingClientRect();
      return { layer: layers[Math.min(layers.length - 1, Math.floor((event.clientY - box.top) / box.height * layers.length))], expert: Math.min(columns - 1, Math.floor((event.clientX - box.left) / box.width * columns)) };
    };
    canvas.addEventListener("mousemove", (event) => {
      const { layer, expert } = cell(event);
      canvas.title = `layer ${layer.layer}, expert ${expert}: ${numbers.text(layer.load_ratio[expert])} times an even load`;
    });
    canvas.addEventListener("click", (event) => {
      const { layer, expert } = cell(event);
      selection.set({ layer: layer.layer, expert, figure: "usage" });
    });
    return make("figure", {}, canvas, make("figcaption", { class: "note" }, "Rows are layers, cells experts: orange above an even load, blue below."));
  };

  const words = { bad: "Problem", watch: "Look", good: "Good", info: "Fact" };

  const finding = (one) => {
    const target = selection.hash({ figure: one.figure, layer: one.layer ?? selection.state.layer, expert: one.expert ?? selection.state.expert });
    const text = one.figure ? make("a", { href: target }, one.text) : make("span", {}, one.text);
    return make("li", {}, make("span", { class: `level ${one.level}` }, words[one.level]), text);
  };

  const findingsCard = () => {
    const known = findings.all(selection.state.component);
    if (!known.length) return null;
    const first = 9;
    const more = make("button", { type: "button", class: "quiet", hidden: known.length <= first, onclick: () => {
      list.append(...known.slice(first).map(finding));
      more.remove();
    } }, `Show all ${known.length}`);
    const list = make("ul", { class: "findings" }, known.slice(0, first).map(finding));
    return make("article", { class: "card", id: "findings" }, make("h3", {}, "What stands out"),
      make("p", { class: "read" }, "Each sentence is computed from the data and leads to the figure that shows it."), list, more);
  };

  /** The load of a layer's experts in order, as one small path; the line is the even load. */
  const profile = (layer) => {
    const ratios = layer.load_ratio ?? layer.selected_count.map(() => 0);
    const width = 190, height = 26, most = Math.max(2, ...ratios), step = width / ratios.length, gap = step > 3 ? 1 : 0;
    const bars = ratios.map((ratio, e) => {
      const top = height - (ratio / most) * height;
      return `M${(e * step).toFixed(2)} ${height}V${top.toFixed(2)}h${(step - gap).toFixed(2)}V${height}z`;
    });
    const even = height - height / most;
    return makeSvg("svg", { class: "profile", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Load of ${ratios.length} experts, the heaviest ${numbers.text(Math.max(...ratios))} times an even load` },
      makeSvg("path", { d: bars.join("") }), makeSvg("line", { x1: 0, x2: width, y1: even, y2: even }));
  };

  const layersCard = () => {
    const { component, layer: chosen } = selection.state;
    const layers = data.layers(component);
    if (!layers.length) return null;
    const heaviest = (layer) => {
      const shares = numbers.shares(layer.selected_count ?? []);
      const expert = numbers.argmax(shares);
      return [shares[expert] ?? null, expert];
    };
    const flag = (value, watch, bad, shown = numbers.text(value)) => {
      const level = value >= bad ? "bad" : value >= watch ? "watch" : null;
      return level ? make("span", { class: `flag ${level}` }, `${shown} ${level === "bad" ? "▲" : "△"}`) : shown;
    };
    const table = {
      columns: [{ name: "layer", text: true }, { name: "load of each expert" }, { name: "variation" }, { name: "entropy" }, { name: "heaviest" }, { name: "its share" },
        { name: "dead" }, { name: "underused" }, { name: "margin" }, { name: "z-loss" }, { name: "tokens" }, { name: "module", text: true }],
      rows: layers.map((layer) => [layer.layer, layer.load_cv, layer.load_cv, layer.entropy_ratio, heaviest(layer)[1], heaviest(layer)[0], layer.dead_experts,
        layer.underused_experts, layer.margin, layer.router_z_loss, layer.tokens, layer.name]),
    };
    const byId = new Map(layers.map((layer) => [layer.layer, layer]));
    const cells = {
      layer: (id) => make("button", { type: "button", class: "as-link", "aria-label": `Choose layer ${id}`, onclick: () => selection.set({ layer: id }) }, moetap.short(id, 20)),
      "load of each expert": (_, row) => profile(byId.get(row[0])),
      variation: (value) => flag(value, verdict.kBalanced, verdict.kStrong),
      entropy: numbers.percent,
      heaviest: (expert, row) => (row[5] === null ? "–" : make("button", { type: "button", class: "as-link", "aria-label": `Choose expert ${expert}`, onclick: (event) => {
        event.stopPropagation();
        selection.set({ layer: row[0], expert });
      } }, String(expert))),
      "its share": (share, row) => (share === null ? "–" : flag(share * byId.get(row[0]).selected_count.length, 2, 3, numbers.percent(share))),
      dead: (n) => flag(n, Infinity, 1),
      module: (name) => make("span", { title: name }, moetap.short(name, 44)),
    };
    return make("article", { class: "card", id: "layers-at-a-glance" }, make("h3", {}, "Layers at a glance"),
      make("p", { class: "read" }, "A line a layer; bars are the loads of its experts, the dashed line an even load. Entropy is in percent of the largest. ",
        make("b", {}, "Warning signs: "), "single tall bars, gaps, △ and ▲."),
      moetap.tables.view(table, { label: "Layers at a glance", cells, chosen: (row) => row[0] === chosen, onRow: (row) => selection.set({ layer: row[0] }) }),
      make("div", { class: "tools" }, make("button", { type: "button", class: "quiet", onclick: () => moetap.download("layers.csv",
        moetap.tables.csv({ columns: table.columns.filter((_, i) => i !== 1), rows: table.rows.map((row) => row.filter((_, i) => i !== 1)) }), "text/csv") }, "CSV")));
  };

  /** Runs that have not ended: how far they are, and what to do. */
  const unfinished = () => data.runs.filter((run) => run.unfinished).map((run) => {
    const { forwards, recording, ranks } = run.unfinished;
    const owners = ranks.map((rank) => rank.owner).filter(Boolean);
    const text = recording
      ? `${run.label} is still being recorded: ${numbers.count(forwards, "forward")} so far (${owners.join("; ")}). The page follows it; tokens and studies come when it is done.`
      : `The process that recorded ${run.label} died after ${numbers.count(forwards, "forward")}; these are in this page. moetap recover ${run.label} completes the run.`;
    return make("p", { class: "notice" }, moetap.short(text, 400));
  });

  /** Fills the part of the overview anew. */
  const draw = (place) => {
    place.replaceChildren(...[make("h1", { id: "title" }, data.all.title), ...unfinished(), facts(), verdicts(), findingsCard(), layersCard(),
      ...[...(data.all.left_out ?? []), ...(data.analysis?.notices ?? [])].map((text) => make("p", { class: "notice" }, text))].filter(Boolean));
  };

  moetap.overview = { draw };
})();
