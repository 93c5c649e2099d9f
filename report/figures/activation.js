"use strict";
// Activation surfaces of the probe's tokens, and how alike the layers are.
(() => {
  const { data, figures, parts, numbers, selection, theme } = moetap;
  const { known } = moetap.usage;
  const probe = (component) => data.all.probe?.[component] ?? [];

  /** Turns the surfaces once in 24 seconds while that is asked for and they are in view. */
  const kTickMs = 80, kTurnMs = 24000;
  let timer = null;
  const turn = (card) => {
    clearInterval(timer);
    if (card.chosen.turn !== "on") return;
    timer = setInterval(() => {
      if (!card.plot.isConnected || card.chosen.turn !== "on") return clearInterval(timer);
      if (!card.isVisible) return;
      const { x, y, z } = card.plot.layout.scene.camera.eye, by = (2 * Math.PI * kTickMs) / kTurnMs;
      Plotly.relayout(card.plot, { "scene.camera.eye": { x: x * Math.cos(by) - y * Math.sin(by), y: x * Math.sin(by) + y * Math.cos(by), z } });
    }, kTickMs);
  };

  figures.add({
    id: "activation-3d", part: "usage", title: "Activation surfaces", file: "expert_activation_3d",
    read: "A surface a layer over experts and tokens; height and colour are the router's probability. The layers stand above each other, farther apart than the largest probability, so none crosses another.",
    warn: "ridges along tokens: one expert for everything; flat surfaces: a router that does not choose.",
    needs: "a run with moetap run --probe-tokens (the probabilities of the first tokens)",
    has: (component) => probe(component).length > 0,
    controls: () => [{ key: "layers", label: "Layers", options: [["all", "all"], ["one", "the chosen one"]] }, { key: "turn", label: "Turn", options: [["off", "by hand"], ["on", "by itself"]] }],
    shown: (card) => turn(card),
    draw: ({ component, chosen }) => {
      const all = probe(component), id = selection.oneLayer(all.map((layer) => layer.layer));
      const shown = chosen.layers === "one" ? all.filter((layer) => layer.layer === id) : all;
      const most = Math.max(...shown.map((layer) => layer.probability.flat().reduce((a, b) => Math.max(a, b), 0)));
      const offset = most * 1.15;
      const colors = data.all.colorscale.map((color, i, list) => [i / (list.length - 1), color]);
      const traces = shown.map((layer, i) => {
        // z [tokens][experts]: rows are y (tokens), columns x (experts). Colour and hover are the probability, not the height.
        const z = layer.probability.map((row) => row.map((p) => p + i * offset));
        return { type: "surface", name: `layer ${layer.layer}`, z, surfacecolor: layer.probability, cmin: 0, cmax: most, colorscale: colors, opacity: 0.85, showscale: i === 0, showlegend: false,
          x: numbers.range(layer.probability[0].length), y: numbers.range(layer.probability.length), colorbar: { ...parts.bar("probability"), len: 0.7 },
          customdata: layer.probability, hovertemplate: `layer ${moetap.plain(layer.layer)}<br>expert %{x}, token %{y}<br>probability <b>%{customdata:.4f}</b><extra></extra>` };
      });
      const whole = (count) => (count <= 12 ? { dtick: 1 } : {});  // experts and tokens have no halves
      const axis = { color: theme.variable("soft"), gridcolor: theme.variable("grid"), backgroundcolor: "rgba(0,0,0,0)", showbackground: false };
      return {
        traces, height: 560, where: shown.length === 1 ? `Layer ${shown[0].layer}` : `${shown.length} layers`, note: data.all.probe_note ?? null,
        layout: { margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, scene: { aspectmode: "manual", aspectratio: { x: 1, y: 1, z: 0.8 }, camera: { eye: { x: 1.8, y: -1.8, z: 1.5 } },
          xaxis: { ...axis, ...whole(shown[0].probability[0].length), title: { text: "Expert" } }, yaxis: { ...axis, ...whole(shown[0].probability.length), title: { text: "Token" } },
          zaxis: { ...axis, title: { text: "Layer" }, tickmode: "array", tickvals: shown.map((_, i) => i * offset), ticktext: shown.map((layer) => moetap.plain(layer.layer, 12)) } } },
        table: { columns: [{ name: "layer", text: true }, { name: "token" }, { name: "expert" }, { name: "probability" }], rows: shown.flatMap((layer) => layer.probability.flatMap((row, t) => row.map((p, e) => [layer.layer, t, e, p]))) },
      };
    },
  });

  const pearson = (a, b) => {
    const n = a.length, meanA = numbers.sum(a) / n, meanB = numbers.sum(b) / n;
    let ab = 0, aa = 0, bb = 0;
    for (let i = 0; i < n; ++i) {
      ab += (a[i] - meanA) * (b[i] - meanB);
      aa += (a[i] - meanA) ** 2;
      bb += (b[i] - meanB) ** 2;
    }
    return aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : null;
  };
  const profiles = (component) => known(component).filter((layer) => layer.mean_prob?.every(numbers.isNumber));
  const kMostApart = 30;
  /** Of the study where it is there (`--dump full`), else of the run's mean probabilities. */
  const correlations = (component) => {
    const studied = data.rows(component, "layer_correlation");
    if (studied) {
      const ids = data.distinct(studied.flatMap((row) => [row.layer_a, row.layer_b]));
      const z = ids.map(() => ids.map(() => null));
      for (const row of studied) {
        const a = ids.indexOf(row.layer_a), b = ids.indexOf(row.layer_b);
        z[a][b] = z[b][a] = row.correlation;
      }
      return { layers: ids.map((id) => ({ layer: id })), z };
    }
    const layers = profiles(component);
    return { layers, z: layers.map((one, i) => layers.map((two, j) => (i === j || Math.abs(i - j) > kMostApart || one.mean_prob.length !== two.mean_prob.length ? null : pearson(one.mean_prob, two.mean_prob)))) };
  };

  figures.add({
    id: "layer-correlation", part: "evolution", title: "Correlation of layers", file: "layer_correlation_matrix", studies: ["layer_activation"],
    read: "Pearson correlation of the layers' mean probabilities over experts, for layers up to 30 apart. Expert numbers of two layers are different networks: a correlation is a trait of the model's making, not of shared work.",
    warn: "blocks or stripes at equal distances: layers that were copied or initialised alike.",
    needs: "a run with two or more routers whose probabilities are known",
    has: (component) => profiles(component).length > 1 || Boolean(data.rows(component, "layer_correlation")),
    draw: ({ component }) => {
      const { layers, z } = correlations(component), ids = layers.map((layer) => layer.layer);
      return {
        ...parts.heatmap({ z, x: ids, y: ids, xTitle: "Layer", yTitle: "Layer", unit: "correlation", center: 0, high: 1, square: true, text: ids.length <= 10 ? (value) => (value === null ? "" : value.toFixed(2)) : null,
          tip: (i, j, value) => `layers ${moetap.plain(ids[i])} and ${moetap.plain(ids[j])}<br><b>${numbers.text(value)}</b>` }),
        onClick: (point) => selection.set({ layer: ids[point.y] }),
        table: { columns: [{ name: "layer_a", text: true }, { name: "layer_b", text: true }, { name: "correlation" }], rows: z.flatMap((row, i) => row.flatMap((value, j) => (i < j && value !== null ? [[ids[i], ids[j], value]] : []))) },
      };
    },
  });

  figures.add({
    id: "periodicity", part: "evolution", title: "Periodic patterns", file: "periodic_pattern_analysis",
    read: "Mean correlation of layers that lie 12, 24 or 36 apart, with its spread: above 0.7 is strong, above 0.4 moderate.",
    warn: "strong values: the layers repeat with that period.",
    needs: "a run with more than 12 routers in a component",
    has: (component) => profiles(component).length > 12,
    draw: ({ component }) => {
      const layers = profiles(component);
      const rows = [12, 24, 36].flatMap((apart) => {
        const values = numbers.range(Math.max(0, layers.length - apart)).filter((i) => layers[i].mean_prob.length === layers[i + apart].mean_prob.length).map((i) => pearson(layers[i].mean_prob, layers[i + apart].mean_prob)).filter(numbers.isNumber);
        if (!values.length) return [];
        const mean = numbers.sum(values) / values.length;
        return [{ apart, mean, spread: Math.sqrt(numbers.sum(values.map((value) => (value - mean) ** 2)) / values.length), pairs: values.length, strength: mean > 0.7 ? "strong" : mean > 0.4 ? "moderate" : "weak" }];
      });
      return {
        height: 300, traces: [{ type: "bar", x: rows.map((row) => `${row.apart} apart`), y: rows.map((row) => row.mean), error_y: { type: "data", array: rows.map((row) => row.spread), color: theme.variable("soft") }, marker: { color: theme.variable("accent") },
          text: rows.map((row) => row.strength), textposition: "outside", customdata: rows.map((row) => `${row.apart} layers apart<br><b>${numbers.text(row.mean)}</b> ± ${numbers.text(row.spread)}, ${row.pairs} pairs: ${row.strength}`), hovertemplate: "%{customdata}<extra></extra>", width: 0.4 }],
        layout: { yaxis: { range: [-1.05, 1.15], title: { text: "Mean correlation" } }, showlegend: false },
        table: figures.tableOf(rows, ["apart", "mean", "spread", "pairs", "strength"]),
      };
    },
  });

  for (const [id, table, value, title, file] of [
    ["router-similarity", "router_similarity", "cosine", "Similarity of routers", "router_similarity_matrix"],
    ["router-norms", "router_similarity", "column_norm_correlation", "Correlation of the routers' column norms", "router_similarity_matrix_column_norms"],
    ["expert-weights", "expert_weight_similarity", "cosine", "Similarity of expert weights", "expert_weight_similarity"],
  ]) {
    figures.add({
      id, part: "evolution", title, file, studies: ["weight_similarity"], needs: "the weights: moetap report RUN --model MODEL.pt",
      read: "Two layers of the model compared by their weights: 1 is the same direction, 0 none in common.", warn: "layers far apart with a value near 1: copies.",
      has: (component) => Boolean(data.rows(component, table, (row) => numbers.isNumber(row[value]))),
      draw: ({ component }) => {
        const rows = data.rows(component, table), ids = data.distinct(rows.flatMap((row) => [row.layer_a, row.layer_b]));
        const z = ids.map(() => ids.map(() => null));
        for (const row of rows) {
          const a = ids.indexOf(row.layer_a), b = ids.indexOf(row.layer_b);
          z[a][b] = z[b][a] = row[value];
        }
        return { ...parts.heatmap({ z, x: ids, y: ids, xTitle: "Layer", yTitle: "Layer", unit: "cosine", center: 0, high: 1, square: true, text: ids.length <= 10 ? (v) => (v === null ? "" : v.toFixed(2)) : null, tip: (i, j, v) => `layers ${moetap.plain(ids[i])} and ${moetap.plain(ids[j])}<br><b>${numbers.text(v)}</b>` }),
          table: { columns: Object.keys(rows[0]).map((name) => ({ name })), rows: rows.map((row) => Object.values(row)) } };
      },
    });
  }
})();
