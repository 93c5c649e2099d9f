"use strict";
// Two runs side by side.
(() => {
  const { data, figures, parts, numbers, selection } = moetap;
  const { known } = moetap.usage;
  const needs = "two runs: moetap report RUN_A RUN_B";

  /** Layers that both runs have, with equally many experts. */
  const pairs = (component) => (data.runs.length < 2 ? [] : known(component, 0).map((a) => ({ a, b: known(component, 1).find((b) => b.layer === a.layer && b.selected_count.length === a.selected_count.length) }))
    .filter(({ a, b }) => b && a.tokens > 0 && b.tokens > 0));

  figures.add({
    id: "change-usage", part: "change", studies: ["usage_comparison"], title: "Change of usage", file: "usage_comparison", needs,
    read: "Share of a layer's selections in the second run minus that in the first: orange experts gained, blue ones lost.",
    warn: "whole columns of one colour: a habit that moved through all layers.",
    has: (component) => pairs(component).length > 0,
    controls: () => [{ key: "show", label: "Show", options: [["difference", "Difference of shares"], ["specialization", "Specialisation |a − b| / (a + b)"]] }],
    draw: ({ component, chosen }) => {
      const all = pairs(component), ids = all.map(({ a }) => a.layer), width = Math.max(...all.map(({ a }) => a.selected_count.length));
      const shares = all.map(({ a, b }) => [numbers.shares(a.selected_count), numbers.shares(b.selected_count)]);
      const usage = (layer, e) => layer.selected_count[e] / layer.tokens;
      const difference = shares.map(([p, q]) => numbers.range(width).map((e) => (p[e] === undefined ? null : q[e] - p[e])));
      const special = all.map(({ a, b }) => numbers.range(width).map((e) => {
        const x = usage(a, e), y = usage(b, e);
        return x + y > 0 ? Math.abs(x - y) / (x + y) : 0;
      }));
      const drawn = parts.heatmap({ z: chosen.show === "difference" ? difference : special, x: numbers.range(width), y: ids, xTitle: "Expert", yTitle: "Layer", unit: chosen.show === "difference" ? "difference of shares" : "specialisation", ...(chosen.show === "difference" ? { center: 0 } : { low: 0, high: 1 }),
        tip: (i, e) => (shares[i][0][e] === undefined ? "" : `layer ${moetap.plain(ids[i])}, expert ${e}<br>first ${numbers.percent(shares[i][0][e])}, second ${numbers.percent(shares[i][1][e])}<br>difference <b>${numbers.percent(difference[i][e])}</b>, specialisation ${numbers.text(special[i][e])}`) });
      drawn.layout.shapes = parts.frames(ids.indexOf(selection.state.layer), selection.state.expert ?? -1, ids.length, width);
      return { ...drawn, where: `${data.runName(1)} against ${data.runName(0)}`, onClick: (point) => selection.set({ layer: ids[point.y], expert: point.x }),
        table: { columns: [{ name: "layer", text: true }, { name: "expert_id" }, { name: "a", unit: "selections a token" }, { name: "b", unit: "selections a token" }, { name: "diff" }, { name: "specialization" }, { name: "dominant", text: true }, { name: "share_a" }, { name: "share_b" }, { name: "share_diff" }],
          rows: all.flatMap(({ a, b }, i) => numbers.range(a.selected_count.length).map((e) => [a.layer, e, usage(a, e), usage(b, e), usage(b, e) - usage(a, e), special[i][e], usage(a, e) === usage(b, e) ? "same" : usage(a, e) > usage(b, e) ? "a" : "b", shares[i][0][e], shares[i][1][e], difference[i][e]])) } };
    },
  });

  figures.add({
    id: "change-divergence", part: "change", title: "How far the runs lie apart", file: "usage_divergence", needs,
    read: "Jensen-Shannon divergence of the shares of selections, layer by layer, in bits: 0 is the same routing on the whole, 1 nothing in common.",
    warn: "a steady rise with depth: differences add up; one layer alone: look there.",
    has: (component) => pairs(component).length > 0,
    draw: ({ component }) => {
      const all = pairs(component), ids = all.map(({ a }) => a.layer), values = all.map(({ a, b }) => numbers.jensenShannon(numbers.shares(a.selected_count), numbers.shares(b.selected_count)));
      return { ...parts.lines({ layers: ids, yTitle: "Divergence, bits", series: [{ name: "divergence", values, unit: "bits" }] }), onClick: (point) => selection.set({ layer: ids[point.x] }),
        table: { columns: [{ name: "layer", text: true }, { name: "js_divergence", unit: "bits" }], rows: ids.map((id, i) => [id, values[i]]) } };
    },
  });

  figures.add({
    id: "change-metrics", part: "change", title: "Change of the metrics", file: "metric_changes", needs,
    read: "The second run's value minus the first's.",
    warn: "variation and z-loss that rise, entropy that falls.",
    has: (component) => pairs(component).length > 0,
    controls: () => [{ key: "show", label: "Show", options: [["load_cv", "Variation"], ["entropy_ratio", "Entropy over the largest"], ["margin", "Margin"], ["router_z_loss", "z-loss"], ["dead_experts", "Dead experts"], ["repeat_rate", "Repeat rate"]] }],
    draw: ({ component, chosen }) => {
      const all = pairs(component), ids = all.map(({ a }) => a.layer);
      const values = all.map(({ a, b }) => (numbers.isNumber(a[chosen.show]) && numbers.isNumber(b[chosen.show]) ? b[chosen.show] - a[chosen.show] : null));
      const { theme } = moetap;
      return { height: 320, traces: [{ type: "bar", x: numbers.range(ids.length), y: values, marker: { color: values.map((value) => (value > 0 ? theme.color(1) : theme.color(0))) }, customdata: all.map(({ a, b }, i) => `layer ${moetap.plain(ids[i])}<br>first ${numbers.text(a[chosen.show])}, second ${numbers.text(b[chosen.show])}<br>difference <b>${numbers.text(values[i])}</b>`), hovertemplate: "%{customdata}<extra></extra>" }],
        layout: { showlegend: false, xaxis: { ...parts.ticks(ids), title: { text: "Layer" } }, yaxis: { title: { text: "Difference" } } }, onClick: (point) => selection.set({ layer: ids[point.x] }),
        table: { columns: [{ name: "layer", text: true }, { name: "a" }, { name: "b" }, { name: "difference" }], rows: all.map(({ a, b }, i) => [ids[i], a[chosen.show], b[chosen.show], values[i]]) } };
    },
  });

  const aligned = (component) => data.rows(component, "alignment");
  figures.add({
    id: "alignment", part: "change", title: "The same tokens in both runs", file: "alignment", studies: ["alignment"], needs: "two runs with dumps of the same tokens: moetap report RUN_A RUN_B",
    read: "Of the tokens that both runs have: share with the same experts, with the same first expert, and the mean overlap of the sets.",
    warn: "a fall with depth: small differences grow; a first layer under 1 already differs in its inputs.",
    has: (component) => Boolean(aligned(component)),
    draw: ({ component }) => {
      const rows = aligned(component), ids = rows.map((row) => row.layer);
      return { ...parts.lines({ layers: ids, yTitle: "Share of tokens", range: [0, 1.02], series: [["same_set", "same experts"], ["same_first", "same first expert"], ["overlap", "overlap"]].map(([key, name]) => ({ name, values: rows.map((row) => row[key]) })) }),
        onClick: (point) => selection.set({ layer: ids[point.x] }), table: { columns: Object.keys(rows[0]).map((name) => ({ name })), rows: rows.map((row) => Object.values(row)) } };
    },
  });

  figures.add({
    id: "matching", part: "change", title: "Which expert is which", file: "matching", studies: ["matching"], needs: "two runs with dumps of the same tokens, or --model A.pt B.pt",
    read: "Each expert of the first run with its partner in the second; colour is their likeness.",
    warn: "partners off the diagonal: the numbers of experts were permuted between the checkpoints.",
    has: (component) => Boolean(data.rows(component, "matching")),
    draw: ({ component }) => {
      const rows = data.rows(component, "matching"), ids = data.distinct(rows.map((row) => row.layer)), id = selection.oneLayer(ids), own = rows.filter((row) => row.layer === id);
      const a = data.distinct(own.map((row) => row.expert_a)), b = [...data.distinct(own.map((row) => row.expert_b))].sort((x, y) => x - y);
      const z = a.map(() => b.map(() => null));
      for (const row of own) z[a.indexOf(row.expert_a)][b.indexOf(row.expert_b)] = row.similarity;
      return { ...parts.heatmap({ z, x: b, y: a, xTitle: "Expert of the second", yTitle: "Expert of the first", unit: "similarity", low: 0, high: 1, square: true, tip: (i, j, value) => (value === null ? "" : `${a[i]} → ${b[j]}<br><b>${numbers.text(value)}</b>`) }), where: `Layer ${id}`, layer: id,
        table: figures.tableOf(own, ["expert_a", "expert_b", "similarity", "identity_similarity"]) };
    },
  });

  for (const [id, table, value, title, read, warn] of [
    ["switch-fraction", "switch_fraction", "switch_fraction", "Slots that changed their expert", "Share of slots that hold another expert in the second checkpoint, layer by layer; a line a pair of runs.", "layers that still move late in training."],
    ["saturation", "saturation", "position_match", "Saturation over checkpoints", "Share of positions whose expert is already that of the last checkpoint; a line a layer.", "lines that still climb at the end: routing has not settled."],
  ]) {
    figures.add({
      id, part: "change", title, read, warn, file: table, studies: [table, "switch_fraction", "logged_switch_fraction"], needs: "two runs with dumps of the same tokens, or LibMoE's logs of several checkpoints",
      has: (component) => Boolean(data.rows(component, table)),
      draw: ({ component }) => {
        const rows = data.rows(component, table), overRuns = table === "saturation";
        const [xs, lines] = overRuns ? [data.distinct(rows.map((row) => row.run)), data.distinct(rows.map((row) => row.layer))]
          : [data.distinct(rows.map((row) => row.layer)), data.distinct(rows.map((row) => `${row.run_a} to ${row.run_b}`))];
        const find = (x, line) => rows.find((row) => (overRuns ? row.run === x && row.layer === line : row.layer === x && `${row.run_a} to ${row.run_b}` === line))?.[value] ?? null;
        const shown = lines.slice(0, 12);
        return { ...parts.lines({ layers: xs.map((x) => moetap.short(overRuns ? String(x).replace(/\/+$/, "").split("/").at(-1) : x, 14)), xTitle: overRuns ? "Checkpoint" : "Layer", yTitle: "Share", range: [0, 1.02], series: shown.map((line) => ({ name: overRuns ? `layer ${line}` : line, values: xs.map((x) => find(x, line)) })) }),
          note: shown.length < lines.length ? `${shown.length} of ${lines.length} lines are drawn; the table has all.` : null,
          table: { columns: Object.keys(rows[0]).map((name) => ({ name })), rows: rows.map((row) => Object.values(row)) } };
      },
    });
  }
})();
