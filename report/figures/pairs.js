"use strict";
// Experts that work on the same tokens, and that follow each other from layer to layer.
(() => {
  const { data, figures, parts, numbers, selection, theme } = moetap;
  const { known } = moetap.usage;
  const kMostCells = 128;

  /** A matrix of a layer that is whole, or the strongest cells of one that is not: [{from, to, n}]. */
  const cellsOf = (layer, key) => {
    if (Array.isArray(layer[key])) {
      return layer[key].flatMap((row, from) => row.map((n, to) => ({ from, to, n })));
    }
    const sparse = layer[`${key}_cells`];
    return sparse ? sparse.from.map((from, i) => ({ from, to: sparse.to[i], n: sparse.n[i] })) : [];
  };
  const has = (layer, key) => Array.isArray(layer[key]) || Boolean(layer[`${key}_cells`]);
  const noteOf = (layer, key) => layer[`${key}_cells`]?.note ?? null;

  /** The experts to show: all, or those with the largest sums. */
  const chosenExperts = (cells, axis, count) => {
    const sums = new Map();
    for (const cell of cells) sums.set(cell[axis], (sums.get(cell[axis]) ?? 0) + cell.n);
    return [...sums].sort((a, b) => b[1] - a[1]).slice(0, count).map(([expert]) => expert).sort((a, b) => a - b);
  };

  const one = (component, key) => {
    const layers = known(component).filter((layer) => has(layer, key));
    const id = selection.oneLayer(layers.map((layer) => layer.layer));
    return layers.find((layer) => layer.layer === id);
  };
  const where = (layer) => `Layer ${layer.layer}${selection.state.layer === null ? ", choose another above" : ""}`;

  figures.add({
    id: "coactivation", part: "pairs", title: "Co-activation", file: "coactivation",
    read: "Tokens that chose both experts, against what their loads alone would give (lift): 1 is chance.",
    warn: "pairs far above 1 do the same work together; pairs far below 1 exclude each other.",
    needs: "a run whose routers choose two or more experts a token",
    has: (component) => known(component).some((layer) => layer.top_k > 1 && has(layer, "coactivation")),
    controls: () => [{ key: "show", label: "Show", options: [["lift", "Lift"], ["share", "Share of the first expert's tokens"], ["tokens", "Tokens"]] }],
    draw: ({ component, chosen }) => {
      const layer = one(component, "coactivation");
      const cells = cellsOf(layer, "coactivation").filter((cell) => cell.from !== cell.to);
      const experts = Array.isArray(layer.coactivation) && layer.selected_count.length <= kMostCells
        ? numbers.range(layer.selected_count.length) : chosenExperts(cells, "from", kMostCells);
      const place = new Map(experts.map((e, i) => [e, i]));
      const counts = layer.selected_count;
      const lift = (cell) => (counts[cell.from] * counts[cell.to] > 0 ? (cell.n * layer.tokens) / (counts[cell.from] * counts[cell.to]) : null);
      const value = { lift, share: (cell) => (counts[cell.from] > 0 ? cell.n / counts[cell.from] : null), tokens: (cell) => cell.n }[chosen.show];
      const z = experts.map(() => experts.map(() => null));
      const n = experts.map(() => experts.map(() => null));
      for (const cell of cells) {
        const i = place.get(cell.from), j = place.get(cell.to);
        if (i === undefined || j === undefined) continue;
        z[i][j] = value(cell);
        n[i][j] = cell.n;
      }
      const isLift = chosen.show === "lift";
      const shown = isLift ? z.map((row) => row.map((v) => (v === null ? null : Math.log2(Math.max(v, 1 / 8))))) : z;
      const drawn = parts.heatmap({
        z: shown, x: experts, y: experts, xTitle: "Expert", yTitle: "Expert", unit: { lift: "times chance", share: "share", tokens: "tokens" }[chosen.show], square: true,
        ...(isLift ? { center: 0, high: 3 } : { low: 0 }), text: experts.length <= 12 ? (_, i, j) => (z[i][j] === null ? "" : numbers.text(Number(z[i][j].toPrecision(chosen.show === "tokens" ? 8 : 2)))) : null,
        tip: (i, j) => (n[i][j] === null ? (i === j ? `expert ${experts[i]}: ${numbers.text(counts[experts[i]])} tokens` : "not kept") : `experts ${experts[i]} and ${experts[j]}<br><b>${numbers.text(n[i][j])}</b> tokens, ${numbers.text(z[i][j])} ${{ lift: "times chance", share: "of the first's", tokens: "" }[chosen.show]}`),
      });
      if (isLift) Object.assign(drawn.traces[0].colorbar, { tickvals: [-3, -2, -1, 0, 1, 2, 3], ticktext: ["≤ 1/8", "1/4", "1/2", "1", "2", "4", "≥ 8"] });
      drawn.traces[0].meta = { tokens: n };
      return {
        ...drawn, where: where(layer), layer: layer.layer, note: noteOf(layer, "coactivation"),
        onClick: (point) => selection.set({ layer: layer.layer, expert: experts[point.x] }),
        table: { columns: [{ name: "expert_a" }, { name: "expert_b" }, { name: "tokens" }, { name: "lift" }],
          rows: cells.filter((cell) => cell.from < cell.to).map((cell) => [cell.from, cell.to, cell.n, lift(cell)]).sort((a, b) => b[2] - a[2]) },
      };
    },
  });

  /** Pairs of the layer with their share of all pairs: of the study where it is there (by weights), else by tokens. */
  const cooperation = (component) => {
    const studied = data.rows(component, "expert_cooperation");
    if (studied) {
      const id = selection.oneLayer(data.distinct(studied.map((row) => row.layer)));
      const rows = studied.filter((row) => row.layer === id);
      return { id, unit: "share of √(g·g)", pairs: rows.map((row) => ({ a: row.expert_a, b: row.expert_b, share: row.share, tokens: row.tokens, lift: row.lift })), note: data.leftOut(component, "expert_cooperation") };
    }
    const layer = known(component).find((one_) => one_.layer === selection.oneLayer(known(component).filter((l) => l.top_k > 1 && has(l, "coactivation")).map((l) => l.layer)));
    const cells = cellsOf(layer, "coactivation").filter((cell) => cell.from < cell.to && cell.n > 0);
    const all = numbers.sum(cells.map((cell) => cell.n));
    const counts = layer.selected_count;
    return { id: layer.layer, unit: "share of pairs", pairs: cells.map((cell) => ({ a: cell.from, b: cell.to, share: cell.n / all, tokens: cell.n, lift: (cell.n * layer.tokens) / (counts[cell.from] * counts[cell.to]) })).sort((x, y) => y.share - x.share), note: noteOf(layer, "coactivation") };
  };

  figures.add({
    id: "cooperation", part: "pairs", title: "Cooperation", file: "expert_cooperation_network", studies: ["expert_cooperation"],
    read: "Experts on a circle; a line joins two that share tokens, wider for a larger share. The 60 largest shares are drawn.",
    warn: "one hub that all lines meet in; islands that never work with the rest.",
    needs: "a run or arrays with two or more experts a token",
    has: (component) => Boolean(data.rows(component, "expert_cooperation")) || known(component).some((layer) => layer.top_k > 1 && has(layer, "coactivation")),
    draw: ({ component }) => {
      const { id, unit, pairs, note } = cooperation(component);
      const drawn = pairs.slice(0, 60);
      const experts = data.distinct(drawn.flatMap((pair) => [pair.a, pair.b])).sort((a, b) => a - b);
      const angle = (e) => (2 * Math.PI * experts.indexOf(e)) / experts.length - Math.PI / 2;
      const at = (e) => [Math.cos(angle(e)), Math.sin(angle(e))];
      const most = drawn[0]?.share ?? 1;
      const weight = new Map(experts.map((e) => [e, numbers.sum(pairs.filter((pair) => pair.a === e || pair.b === e).map((pair) => pair.share))]));
      const heaviest = Math.max(...weight.values());
      const edges = [...drawn].reverse().map((pair) => {
        const [x0, y0] = at(pair.a), [x1, y1] = at(pair.b);
        const strong = selection.state.expert === null || pair.a === selection.state.expert || pair.b === selection.state.expert;
        return { type: "scatter", mode: "lines", x: [x0, (x0 + x1) / 2, x1], y: [y0, (y0 + y1) / 2, y1], meta: { geometry: true }, showlegend: false, line: { width: 0.6 + 7 * pair.share / most, color: theme.variable("accent") }, opacity: strong ? 0.25 + 0.6 * pair.share / most : 0.06,
          hovertemplate: `experts ${pair.a} and ${pair.b}<br><b>${numbers.percent(pair.share)}</b>, ${numbers.text(pair.tokens)} tokens, ${numbers.text(pair.lift)} times chance<extra></extra>` };
      });
      const nodes = { type: "scatter", mode: "markers+text", meta: { geometry: true }, showlegend: false, x: experts.map((e) => at(e)[0]), y: experts.map((e) => at(e)[1]), text: experts.map(String), textposition: "middle center",
        textfont: { size: experts.length > 40 ? 9 : 12, color: theme.isDark() ? "#0d1a24" : "#ffffff" },
        marker: { size: experts.map((e) => (experts.length > 40 ? 15 : 22) + 16 * weight.get(e) / heaviest), color: experts.map((e) => (e === selection.state.expert ? theme.color(1) : theme.isDark() ? "#8fc4e8" : "#1d6299")), opacity: 1, line: { width: 2, color: theme.variable("card") } },
        hovertemplate: experts.map((e) => `expert ${e}<br>in <b>${numbers.percent(weight.get(e))}</b> of the pairs<extra></extra>`), customdata: experts };
      const axis = { visible: false, range: [-1.25, 1.25] };
      return {
        where: `Layer ${id}, ${unit}`, layer: id, height: 520, traces: [...edges, nodes], note: [note, pairs.length > drawn.length ? `${drawn.length} of ${pairs.length} pairs are drawn; the table has the rest.` : null],
        layout: { showlegend: false, margin: { l: 10, r: 10, t: 10, b: 10 }, xaxis: axis, yaxis: { ...axis, scaleanchor: "x" } },
        onClick: (point) => point.customdata !== undefined && selection.set({ layer: id, expert: point.customdata }),
        table: figures.tableOf(pairs.map((pair) => ({ expert_a: pair.a, expert_b: pair.b, ...pair })), ["expert_a", "expert_b", "share", "tokens", "lift"]),
      };
    },
  });

  const hasNext = (component) => known(component).filter((layer) => has(layer, "transition"));
  const nextOf = (component, layer) => {
    const all = known(component);
    return layer.transition_to ?? all[all.indexOf(layer) + 1]?.layer ?? "?";
  };

  figures.add({
    id: "transition", part: "pairs", title: "From layer to layer", file: "expert_transition", studies: ["expert_transitions"], ofRun: true,
    read: "Of the tokens whose first expert is the row's, the share that goes to the column's in the next layer.",
    warn: "dark single cells: paths that could be prefetched; even rows: the next layer cannot be foreseen.",
    needs: "a run with routers in two layers of a component",
    has: (component) => hasNext(component).length > 0,
    controls: () => [{ key: "show", label: "Show", options: [["probability", "Share of the row"], ["tokens", "Tokens"]] }],
    draw: ({ component, chosen }) => {
      const layers = hasNext(component), id = selection.oneLayer(layers.map((layer) => layer.layer));
      const layer = layers.find((l) => l.layer === id), next = nextOf(component, layer);
      const cells = cellsOf(layer, "transition");
      const whole = Array.isArray(layer.transition) && layer.transition.length <= kMostCells && layer.transition[0].length <= kMostCells;
      const from = whole ? numbers.range(layer.transition.length) : chosenExperts(cells, "from", kMostCells);
      const to = whole ? numbers.range(layer.transition[0].length) : chosenExperts(cells, "to", kMostCells);
      const total = layer.top1_count;
      const tokens = from.map(() => to.map(() => (whole ? 0 : null)));
      for (const cell of cells) {
        const i = from.indexOf(cell.from), j = to.indexOf(cell.to);
        if (i >= 0 && j >= 0) tokens[i][j] = cell.n;
      }
      const sums = new Map();
      for (const cell of cells) sums.set(cell.from, (sums.get(cell.from) ?? 0) + cell.n);
      const rowSum = (e) => (whole ? sums.get(e) ?? 0 : total[e]);
      const rowSums = from.map(rowSum);
      const z = chosen.show === "tokens" ? tokens : tokens.map((row, i) => row.map((n) => (n === null || rowSums[i] === 0 ? null : n / rowSums[i])));
      return {
        ...parts.heatmap({ z, x: to, y: from, xTitle: `Expert of layer ${moetap.plain(next, 20)}`, yTitle: `Expert of layer ${moetap.plain(id, 20)}`, unit: chosen.show === "tokens" ? "tokens" : "share of the row", low: 0, square: from.length === to.length,
          tip: (i, j, value) => (tokens[i][j] === null ? "not kept" : `expert ${from[i]} → expert ${to[j]}<br><b>${chosen.show === "tokens" ? numbers.text(value) : numbers.percent(value)}</b>, ${numbers.text(tokens[i][j])} tokens`),
          text: from.length <= 12 ? (value) => (value === null || value === 0 ? "" : chosen.show === "tokens" ? numbers.text(value) : numbers.percent(value)) : null }),
        where: `Layer ${id} to layer ${next}`, layer: id, note: noteOf(layer, "transition"),
        table: { columns: [{ name: "from_expert" }, { name: "to_expert" }, { name: "tokens" }, { name: "probability" }],
          rows: cells.filter((cell) => cell.n > 0).map((cell) => [cell.from, cell.to, cell.n, rowSum(cell.from) ? cell.n / rowSum(cell.from) : null]).sort((a, b) => b[2] - a[2]) },
      };
    },
  });

  const layersOfPaths = () => (parts.isNarrow() ? 3 : 6), kExpertsOfPaths = 8;
  figures.add({
    id: "paths", part: "pairs", title: "Paths through the layers", file: "routing_paths",
    read: "First choices of all tokens, layer after layer; wider is more tokens. The chosen layer and those after it are shown.",
    warn: "a few thick bands from end to end: tokens travel together, and placement can use it.",
    needs: "a run with routers in two layers of a component",
    has: (component) => hasNext(component).length > 0,
    draw: ({ component }) => {
      const layers = hasNext(component);
      const first = Math.max(0, layers.findIndex((layer) => layer.layer === selection.state.layer));
      const shown = layers.slice(first, first + layersOfPaths() - 1);
      const names = [...shown.map((layer) => layer.layer), nextOf(component, shown.at(-1))];
      const loads = names.map((name) => {
        const counts = known(component).find((layer) => layer.layer === name)?.top1_count ?? [];
        return numbers.range(counts.length).sort((a, b) => counts[b] - counts[a]).slice(0, kExpertsOfPaths);
      });
      const nodes = [], index = new Map();
      const node = (depth, expert) => {
        const kept = loads[depth].includes(expert);
        const key = `${depth}/${kept ? expert : "rest"}`;
        if (!index.has(key)) {
          index.set(key, nodes.length);
          nodes.push({ name: kept ? `L${names[depth]} E${expert}` : `L${names[depth]} others`, color: kept ? theme.color(expert, known(component)[0].selected_count.length) : theme.variable("soft"), depth, tip: kept ? `layer ${moetap.plain(names[depth])}, expert ${expert}` : `layer ${moetap.plain(names[depth])}, other experts` });
        }
        return index.get(key);
      };
      const links = new Map();
      shown.forEach((layer, depth) => {
        for (const cell of cellsOf(layer, "transition")) {
          if (cell.n === 0) continue;
          const source = node(depth, cell.from), target = node(depth + 1, cell.to), key = `${source}>${target}`;
          links.set(key, { source, target, value: (links.get(key)?.value ?? 0) + cell.n });
        }
      });
      // A column a layer, the busiest on top: without a place, experts that nothing leads to would stand in the first.
      const flow = nodes.map((_, i) => ["source", "target"].map((end) => numbers.sum([...links.values()].filter((link) => link[end] === i).map((link) => link.value)))).map((both) => Math.max(...both));
      nodes.forEach((one_, i) => Object.assign(one_, { x: 0.001 + (0.998 * one_.depth) / Math.max(1, names.length - 1), y: -flow[i] }));
      const list = [...links.values()].map((link) => ({ ...link, tip: `${nodes[link.source].tip} → ${nodes[link.target].tip}<br><b>${numbers.text(link.value)}</b> tokens` }));
      return {
        ...parts.sankey({ nodes, links: list }), where: `Layers ${names[0]} to ${names.at(-1)}`,
        note: [layers.length > shown.length ? `${names.length} layers at a time; choose a layer above to begin there.` : null, known(component)[0].selected_count.length > kExpertsOfPaths ? `The ${kExpertsOfPaths} busiest experts of each layer have bands of their own.` : null, shown.some((layer) => noteOf(layer, "transition")) ? `Layer ${shown[0].layer}: ${noteOf(shown[0], "transition") ?? "whole."} Bands of the other pairs are not drawn.` : null],
        table: { columns: [{ name: "from", text: true }, { name: "to", text: true }, { name: "tokens" }], rows: list.map((link) => [nodes[link.source].name, nodes[link.target].name, link.value]) },
      };
    },
  });
})();
