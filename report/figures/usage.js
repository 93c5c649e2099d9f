"use strict";
// Layer × expert: who is used, how strongly, with which probability.
(() => {
  const { data, figures, parts, numbers, selection } = moetap;

  const metrics = {
    load_ratio: { title: "Load against an even load", unit: "times even", center: true,
      about: "how many times an even load" },
    usage: { title: "Usage: selections a token", unit: "selections a token", about: "selections a token" },
    mean_weight: { title: "Mean gate weight when chosen", unit: "gate weight", about: "mean gate weight over the tokens that chose it" },
    mean_prob: { title: "Mean probability", unit: "probability", about: "mean router probability over all tokens" },
    selected_count: { title: "Selections", unit: "selections", about: "selections" },
    top1_count: { title: "First choices", unit: "tokens", about: "tokens whose first choice it is" },
    zero_weight_count: { title: "Selections with weight 0", unit: "selections", about: "selections with weight 0" },
  };

  const known = (component, run = 0) => data.layers(component, run).filter((layer) => layer.selected_count?.length);

  /** [layers][experts] of a metric; rows of layers with fewer experts end early. */
  const matrix = (layers, metric, width) => layers.map((layer) => numbers.range(width).map((e) => layer[metric]?.[e] ?? null));

  const heat = (layers, metric, title) => {
    const about = metrics[metric];
    const width = Math.max(...layers.map((layer) => layer.selected_count.length));
    const ids = layers.map((layer) => layer.layer);
    const values = matrix(layers, metric, width);
    const tip = (i, e, value) => (value === null ? `layer ${moetap.plain(ids[i])}, expert ${e}: –`
      : `layer ${moetap.plain(ids[i])}, expert ${e}<br><b>${numbers.text(value)}</b> ${about.about}<br>${numbers.text(layers[i].selected_count[e])} selections of ${numbers.text(layers[i].tokens)} tokens`);
    // A ratio's scale is that of its logarithm: half and double lie equally far from an even load.
    const isRatio = about.center === true;
    const z = isRatio ? values.map((row) => row.map((value) => (value === null ? null : Math.log2(Math.max(value, 1 / 16))))) : values;
    const drawn = parts.heatmap({
      z, x: numbers.range(width), y: ids, xTitle: "Expert", yTitle: "Layer", unit: isRatio ? "times an even load" : about.unit,
      ...(isRatio ? { center: 0, high: Math.min(4, Math.max(1, ...z.flat().filter(numbers.isNumber).map(Math.abs))) } : { low: 0 }),
      tip: (i, e) => tip(i, e, values[i][e]), text: width <= 16 && ids.length <= 14 ? (_, i, e) => (values[i][e] === null ? "" : numbers.text(Number(values[i][e].toPrecision(2)))) : null,
    });
    if (isRatio) {
      const places = numbers.range(9).map((i) => i - 4).filter((p) => Math.abs(p) <= drawn.traces[0].zmax + 1e-9);
      Object.assign(drawn.traces[0].colorbar, { tickvals: places, ticktext: places.map((p) => (p === -4 ? "≤ 1/16" : p < 0 ? `1/${2 ** -p}` : String(2 ** p))) });
      // The numbers themselves stay with the figure: the drawn height is a logarithm.
      drawn.traces[0].meta = { values };
    }
    drawn.layout.shapes = parts.frames(ids.indexOf(selection.state.layer), selection.state.expert ?? -1, ids.length, width);
    return {
      ...drawn, where: title ?? about.title,
      onClick: (point) => selection.set({ layer: ids[point.y], expert: point.x }),
      table: { columns: [{ name: "layer", text: true }, { name: "expert" }, { name: metric, unit: about.unit }], rows: values.flatMap((row, i) => row.map((value, e) => [ids[i], e, value])) },
    };
  };

  figures.add({
    id: "usage", part: "usage", title: "Layer × expert", file: "expert_activation_heatmap",
    read: "A row a layer, a cell an expert. Click a cell to follow its layer and expert through the page.",
    warn: "dark columns in many rows (the same few experts), cells at 1/16 or below (dead or nearly), one cell far above its row.",
    needs: "a run of moetap: moetap report RUN_DIR",
    has: (component) => known(component).length > 0,
    controls: (component) => [
      { key: "metric", label: "Show", options: Object.entries(metrics).filter(([key]) => known(component).some((layer) => layer[key]?.some((value) => value !== null && (key !== "zero_weight_count" || value > 0)))).map(([key, about]) => [key, about.title]) },
      ...(data.runs.length > 1 ? [{ key: "run", label: "Run", options: data.runs.map((run, i) => [i, run.label]) }] : []),
    ],
    draw: ({ component, chosen }) => heat(known(component, Number(chosen.run ?? 0)), chosen.metric),
  });

  figures.add({
    id: "experts-of-a-layer", part: "usage", title: "Experts of one layer", file: "expert_usage_layer",
    read: "Bars are selections of each expert, lines an even load and half of it; the dots are first choices.",
    warn: "bars under the lower line, a first choice that is much rarer than the selections (always a second thought).",
    needs: "a run of moetap",
    has: (component) => known(component).length > 0,
    draw: ({ component }) => {
      const layers = known(component), id = selection.oneLayer(layers.map((one) => one.layer));
      const layer = layers.find((one) => one.layer === id);
      const x = numbers.range(layer.selected_count.length), even = numbers.sum(layer.selected_count) / x.length;
      const { theme } = moetap;
      const tip = x.map((e) => `layer ${moetap.plain(id)}, expert ${e}<br><b>${numbers.text(layer.selected_count[e])}</b> selections, ${numbers.text(layer.load_ratio?.[e])} times even<br>${numbers.text(layer.top1_count[e])} first choices<br>mean weight ${numbers.text(layer.mean_weight?.[e])}`);
      const line = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: theme.variable("ink"), width: 1, dash: "dash" } });
      const name = (y, text) => ({ xref: "paper", x: 1.005, xanchor: "left", y, text, showarrow: false, font: { size: 12, color: theme.variable("soft") } });
      return {
        where: `Layer ${id}${selection.state.layer === null ? ", choose another above" : ""}`, layer: id, height: 320,
        traces: [
          { type: "bar", name: "selections", x, y: layer.selected_count, customdata: tip, hovertemplate: "%{customdata}<extra></extra>",
            marker: { color: x.map((e) => (e === selection.state.expert ? theme.color(2) : theme.variable("accent"))) } },
          { type: "scatter", mode: "markers", name: "first choices", x, y: layer.top1_count, customdata: tip, hovertemplate: "%{customdata}<extra></extra>",
            marker: { color: theme.color(1), size: x.length > 100 ? 4 : 9, symbol: "diamond", line: { width: 1, color: theme.variable("card") } } },
        ],
        layout: { bargap: 0.18, margin: { r: 46 }, shapes: [line(even), line(even / 2)], annotations: [name(even, "even"), name(even / 2, "half")], xaxis: { ...parts.ticks(x), title: { text: "Expert" } }, yaxis: { title: { text: "Selections" }, rangemode: "tozero" } },
        onClick: (point) => selection.set({ layer: id, expert: point.x }),
        table: { columns: [{ name: "expert" }, { name: "selected_count" }, { name: "top1_count" }, { name: "load_ratio" }, { name: "mean_weight" }, { name: "mean_prob" }],
          rows: x.map((e) => [e, layer.selected_count[e], layer.top1_count[e] ?? null, layer.load_ratio?.[e] ?? null, layer.mean_weight[e] ?? null, layer.mean_prob?.[e] ?? null]) },
      };
    },
  });

  const phase = (component, name) => data.runs[0]?.phases?.[name]?.[component] ?? [];
  figures.add({
    id: "phases", part: "usage", title: "Prompt against generation", file: "prompt_generation",
    read: "Share of selections while generating minus the share in prompts: orange experts are used more to write, blue ones more to read.",
    warn: "experts that only one phase uses: a prompt alone says little about serving.",
    needs: "a run in which forwards generated tokens (a host that labels them, docs/hosts.md)",
    has: (component) => phase(component, "prompt").some((layer) => layer.tokens > 0) && phase(component, "generation").some((layer) => layer.tokens > 0),
    draw: ({ component }) => {
      const pairs = phase(component, "prompt").map((one) => [one, phase(component, "generation").find((other) => other.layer === one.layer)])
        .filter(([one, two]) => two && one.tokens > 0 && two.tokens > 0);
      const ids = pairs.map(([one]) => one.layer), width = Math.max(...pairs.map(([one]) => one.selected_count.length));
      const shares = pairs.map((pair) => pair.map((layer) => numbers.shares(layer.selected_count)));
      const z = shares.map(([p, q]) => numbers.range(width).map((e) => (p[e] === undefined ? null : q[e] - p[e])));
      return {
        ...parts.heatmap({ z, x: numbers.range(width), y: ids, xTitle: "Expert", yTitle: "Layer", unit: "difference of shares", center: 0,
          tip: (i, e, value) => `layer ${moetap.plain(ids[i])}, expert ${e}<br>prompt ${numbers.percent(shares[i][0][e])}, generation ${numbers.percent(shares[i][1][e])}<br><b>${numbers.percent(value)}</b>` }),
        onClick: (point) => selection.set({ layer: ids[point.y], expert: point.x }),
        table: { columns: [{ name: "layer", text: true }, { name: "expert" }, { name: "prompt" }, { name: "generation" }, { name: "difference" }],
          rows: z.flatMap((row, i) => row.map((value, e) => [ids[i], e, shares[i][0][e], shares[i][1][e], value])) },
      };
    },
  });
  moetap.usage = { known };
})();
