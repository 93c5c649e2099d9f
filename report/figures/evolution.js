"use strict";
// How the experts' parts change with depth (studies of `moetap analyze`).
(() => {
  const { data, figures, parts, numbers, selection, theme } = moetap;
  const needs = "a run with a dump that has weights (moetap run --dump topk), or arrays";
  const matrixOf = (rows, key) => {
    const ids = data.distinct(rows.map((row) => row.layer)), width = Math.max(...rows.map((row) => row.expert_id)) + 1;
    const z = ids.map(() => Array(width).fill(null));
    for (const row of rows) z[ids.indexOf(row.layer)][row.expert_id] = row[key];
    return { ids, width, z };
  };

  /** Of the study; where it is too large for the page, the run's counts have the usage. */
  const usageRows = (component) => data.rows(component, "expert_usage") ?? data.rows(component, "expert_importance") ?? (data.leftOut(component, "expert_usage")
    ? moetap.usage.known(component).flatMap((layer) => numbers.shares(layer.selected_count).map((usage, expert_id) => ({ layer: layer.layer, expert_id, usage }))) : null);
  figures.add({
    id: "importance", part: "evolution", title: "Importance over layers", file: "expert_distribution_across_layers", studies: ["expert_usage", "expert_importance", "top_experts"],
    read: "Each layer's gate mass (importance) or selections (usage), shares that sum to 1. Frames mark the fewest experts that hold more than 80 % of the importance.",
    warn: "few frames, or few dark cells, in a row: the layer leans on few experts.", needs,
    has: (component) => Boolean(usageRows(component)?.length),
    controls: (component) => [{ key: "show", label: "Show", options: ["importance", "usage"].filter((key) => key in usageRows(component)[0]).map((key) => [key, key === "usage" ? "Usage" : "Importance"]) }],
    draw: ({ component, chosen }) => {
      const rows = usageRows(component), { ids, width, z } = matrixOf(rows, chosen.show);
      const top = data.rows(component, "top_experts") ?? [];
      const drawn = parts.heatmap({ z, x: numbers.range(width), y: ids, xTitle: "Expert", yTitle: "Layer", unit: "share", low: 0, tip: (i, e, value) => `layer ${moetap.plain(ids[i])}, expert ${e}<br><b>${numbers.percent(value)}</b> of the layer's ${chosen.show}` });
      drawn.layout.shapes = [...parts.frames(ids.indexOf(selection.state.layer), selection.state.expert ?? -1, ids.length, width),
        ...(chosen.show === "importance" && top.length <= 600 ? top.map((row) => ({ type: "rect", x0: row.expert_id - 0.44, x1: row.expert_id + 0.44, y0: ids.indexOf(row.layer) - 0.44, y1: ids.indexOf(row.layer) + 0.44, line: { color: theme.color(1), width: 2 } })) : [])];
      return { ...drawn, onClick: (point) => selection.set({ layer: ids[point.y], expert: point.x }), note: data.leftOut(component, "expert_usage"),
        table: { columns: Object.keys(rows[0]).map((name) => ({ name })), rows: rows.map((row) => Object.values(row)) } };
    },
  });

  figures.add({
    id: "role-shift", part: "evolution", title: "Role shifts between layers", file: "expert_role_shift_between_layers", studies: ["layer_changes"],
    read: "L1 distance between the distributions of neighbouring layers, from 0 (the same) to 2. Expert numbers of two layers are different networks unless the model shares them.",
    warn: "one step far above the others: routing changes its character there.", needs,
    has: (component) => Boolean(data.rows(component, "layer_changes")),
    draw: ({ component }) => {
      const rows = data.rows(component, "layer_changes"), steps = rows.map((row) => `${row.from_layer} → ${row.to_layer}`);
      return { ...parts.lines({ layers: steps, xTitle: "Step", yTitle: "L1 distance", series: [{ name: "usage", values: rows.map((row) => row.change_usage) }, { name: "importance", values: rows.map((row) => row.change_importance) }] }),
        table: figures.tableOf(rows, ["from_layer", "to_layer", "change_usage", "change_importance"]) };
    },
  });

  /** All experts of one study, rather than some of the other. */
  const stabilities = (component) => {
    const [most, least] = ["expert_evolution_stats", "expert_stability"];
    return (data.leftOut(component, most) ? data.rows(component, least) : null) ?? data.rows(component, most) ?? data.rows(component, least);
  };

  figures.add({
    id: "stability", part: "evolution", title: "Stability of expert numbers", file: "expert_stability_across_layers", studies: ["expert_stability", "expert_evolution_stats"],
    read: "1 / (1 + variation of the importance over layers): 1 is the same share in every layer. Largest first.",
    warn: "meaningful only where layers share experts, or numbers were given in a meaningful order.", needs,
    has: (component) => Boolean(stabilities(component)),
    draw: ({ component }) => {
      const rows = [...stabilities(component)].sort((a, b) => (b.stability ?? -1) - (a.stability ?? -1)), names = rows.map((row) => `E${row.expert_id}`);
      return { height: 320, traces: [{ type: "bar", x: numbers.range(rows.length), y: rows.map((row) => row.stability), marker: { color: rows.map((row) => (row.expert_id === selection.state.expert ? theme.color(1) : theme.variable("accent"))) },
        customdata: rows.map((row) => `expert ${row.expert_id}<br><b>${numbers.text(row.stability)}</b>`), hovertemplate: "%{customdata}<extra></extra>" }],
      layout: { showlegend: false, xaxis: { ...parts.ticks(names), title: { text: "Expert" } }, yaxis: { range: [0, 1.02], title: { text: "Stability" } } },
      onClick: (point) => selection.set({ expert: rows[point.x].expert_id }), table: { columns: Object.keys(rows[0]).map((name) => ({ name })), rows: rows.map((row) => Object.values(row)) } };
    },
  });

  figures.add({
    id: "evolution-sankey", part: "evolution", title: "Gate flow over the layers", file: "expert_evolution_sankey", studies: ["expert_transitions", "sankey_evolution"],
    read: "The six most important experts of each layer from left to right; a band is the share of all gate flow between two layers.",
    warn: "bands from one expert to one other only: the two layers act as one.", needs,
    has: (component) => Boolean(data.rows(component, "expert_transitions")),
    draw: ({ component }) => {
      const rows = data.rows(component, "expert_transitions"), order = [];
      for (const row of rows) for (const id of [row.from_layer, row.to_layer]) if (!order.includes(id)) order.push(id);
      order.sort((a, b) => Number(a) - Number(b));
      const first = Math.max(0, order.indexOf(selection.state.layer)), shown = order.slice(first, first + (parts.isNarrow() ? 3 : 6));
      const mass = new Map(), total = new Map();
      const add = (map, key, value) => map.set(key, (map.get(key) ?? 0) + value);
      for (const row of rows) {
        add(mass, `${row.from_layer}/${row.from_expert}`, row.weight);
        if (row.to_layer === order.at(-1)) add(mass, `${row.to_layer}/${row.to_expert}`, row.weight);
        add(total, row.from_layer, row.weight);
      }
      const top = new Map(shown.map((id) => [id, [...mass].filter(([key]) => key.startsWith(`${id}/`)).sort((a, b) => b[1] - a[1]).slice(0, 6).map(([key]) => Number(key.split("/").at(-1)))]));
      const nodes = [], index = new Map();
      shown.forEach((id, depth) => top.get(id).forEach((e) => {
        index.set(`${id}/${e}`, nodes.length);
        nodes.push({ name: `L${id} E${e}`, tip: `layer ${moetap.plain(id)}, expert ${e}`, color: theme.color(depth), x: 0.001 + 0.998 * depth / Math.max(1, shown.length - 1), y: (0.5 + top.get(id).indexOf(e)) / top.get(id).length });
      }));
      const links = rows.filter((row) => index.has(`${row.from_layer}/${row.from_expert}`) && index.has(`${row.to_layer}/${row.to_expert}`) && row.weight > 0).map((row) => {
        const share = row.weight / total.get(row.from_layer);
        return { source: index.get(`${row.from_layer}/${row.from_expert}`), target: index.get(`${row.to_layer}/${row.to_expert}`), value: share,
          tip: `layer ${row.from_layer} expert ${row.from_expert} → layer ${row.to_layer} expert ${row.to_expert}<br><b>${numbers.percent(share)}</b> of the flow, ${numbers.percent(row.probability)} of the row` };
      });
      return { ...parts.sankey({ nodes, links }), where: `Layers ${shown[0]} to ${shown.at(-1)}`, note: data.leftOut(component, "expert_transitions"),
        table: { columns: ["from_layer", "to_layer", "from_expert", "to_expert", "weight", "probability", "flow_share"].map((name) => ({ name })), rows: rows.map((row) => [row.from_layer, row.to_layer, row.from_expert, row.to_expert, row.weight, row.probability, row.weight / total.get(row.from_layer)]) } };
    },
  });
})();
