"use strict";
// What layers, heads and the tokens of each expert attend to.
(() => {
  const { data, figures, parts, numbers, selection, theme } = moetap;
  const needs = "a run with moetap run --attention stats";
  const known = (component) => data.attentionLayers(component).filter((layer) => layer.rows > 0);
  const pick = (layers) => layers.find((layer) => layer.layer === selection.oneLayer(layers.map((one) => one.layer)));
  const where = (layer, more = "") => `Layer ${layer.layer}${more}`;
  const kPlane = { diagonal: "Diagonal", far: "Long range", n_terminal: "Begin to begin", c_terminal: "End to end", n_to_c: "Begin to end", c_to_n: "End to begin" };

  figures.add({
    id: "attention-over-layers", part: "attention", title: "Attention over layers", file: "attention_over_layers", needs,
    read: "Shares of a query's attention, averaged over tokens and heads.",
    warn: "first tokens near 1 (sinks: the layer does little), the largest weight near 1 (heads that copy one token).",
    has: (component) => known(component).length > 0,
    controls: () => [{ key: "show", label: "Show", options: [["shares", "Shares"], ["entropy", "Entropy"], ["distance", "Distance"]] }],
    draw: ({ component, chosen }) => {
      const layers = known(component), ids = layers.map((layer) => layer.layer);
      const wanted = { shares: [["first", "to the first 4 tokens"], ["last", "to the last 4 tokens"], ["diagonal", "to within 5 positions"], ["far", "to beyond half the length"], ["self", "to itself"], ["max_weight", "largest weight"]],
        entropy: [["entropy", "entropy", "nats"]], distance: [["distance", "mean distance", "positions"]] }[chosen.show];
      const series = wanted.map(([key, name, unit]) => ({ key, name, unit, values: layers.map((layer) => layer[key] ?? null) })).filter((one) => one.values.some(numbers.isNumber));
      return {
        ...parts.lines({ layers: ids, series, yTitle: { shares: "Share of attention", entropy: "nats", distance: "positions" }[chosen.show], ...(chosen.show === "shares" ? { range: [0, 1.02] } : {}) }),
        onClick: (point) => selection.set({ layer: ids[point.x] }),
        table: { columns: [{ name: "layer", text: true }, ...series.map((one) => ({ name: one.key, unit: one.unit, about: one.name }))], rows: ids.map((id, i) => [id, ...series.map((one) => one.values[i])]) },
      };
    },
  });

  figures.add({
    id: "attention-regions", part: "attention", title: "Attention to regions", file: "attention_regions", needs,
    read: "Share of all attention that goes to each region of the sample, layer by layer.",
    warn: "a region with much less than its share of the tokens is not looked at: an image that the text ignores.",
    has: (component) => known(component).some((layer) => layer.region_mass),
    draw: ({ component }) => {
      const layers = known(component).filter((layer) => layer.region_mass), ids = layers.map((layer) => layer.layer), regions = layers[0].regions.map(regionName);
      const z = layers.map((layer) => layer.region_mass);
      return {
        ...parts.heatmap({ z, x: regions, y: ids, xTitle: "Region attended to", yTitle: "Layer", unit: "share", low: 0, text: layers.length < 20 ? (value) => (value === null ? "" : numbers.percent(value)) : null,
          tip: (i, j, value) => `layer ${moetap.plain(ids[i])} to ${moetap.plain(regions[j])}<br><b>${numbers.percent(value)}</b>` }),
        onClick: (point) => selection.set({ layer: ids[point.y] }),
        table: { columns: [{ name: "layer", text: true }, { name: "region", text: true }, { name: "share" }], rows: z.flatMap((row, i) => row.map((value, j) => [ids[i], regions[j], value])) },
      };
    },
  });

  const regionName = (name, i, all) => (/^\d+$/.test(name) ? `part ${Number(name) + 1} of ${all.length}` : /^parts?[.:]?\d+$/.test(name) ? name : name);

  figures.add({
    id: "attention-heads", part: "attention", title: "Heads", file: "attention_heads", needs,
    read: "A row a layer, a cell a head.",
    warn: "heads with entropy near 0 or with all weight on the first tokens; largest scores above 100 (training may diverge).",
    has: (component) => known(component).some((layer) => layer.head_entropy),
    controls: () => [{ key: "show", label: "Show", options: [["head_entropy", "Entropy, nats"], ["head_first", "Share on the first 4 tokens"], ["head_distance", "Mean distance, positions"], ["head_max_logit", "Largest score before the softmax"]] }],
    draw: ({ component, chosen }) => {
      const layers = known(component).filter((layer) => layer[chosen.show]), ids = layers.map((layer) => layer.layer);
      const width = Math.max(1, ...layers.map((layer) => layer[chosen.show].length));
      const z = layers.map((layer) => numbers.range(width).map((h) => layer[chosen.show][h] ?? null));
      const unit = { head_entropy: "nats", head_first: "share", head_distance: "positions", head_max_logit: "score" }[chosen.show];
      return {
        ...parts.heatmap({ z, x: numbers.range(width), y: ids, xTitle: "Head", yTitle: "Layer", unit, ...(chosen.show === "head_max_logit" ? {} : { low: 0 }),
          tip: (i, h, value) => `layer ${moetap.plain(ids[i])}, head ${h}<br><b>${numbers.text(value)}</b> ${unit}`, text: width <= 12 && ids.length <= 14 ? (value) => (value === null ? "" : numbers.text(Number(value.toPrecision(3)))) : null }),
        onClick: (point) => selection.set({ layer: ids[point.y] }),
        table: { columns: [{ name: "layer", text: true }, { name: "head" }, { name: chosen.show, unit }], rows: z.flatMap((row, i) => row.map((value, h) => [ids[i], h, value])) },
      };
    },
  });

  /** Routers that go with an attention layer; mostly one. */
  const withExperts = (component) => known(component).flatMap((layer) => [layer.experts ?? []].flat().filter((experts) => experts.gate_mass?.length).map((experts) => ({ layer, experts })));
  const pickExperts = (component) => {
    const all = withExperts(component);
    const id = selection.oneLayer(data.distinct(all.map((one) => one.layer.layer)));
    return all.find((one) => one.layer.layer === id);
  };
  const byMass = (experts) => numbers.range(experts.gate_mass.length).filter((e) => experts.gate_mass[e] > 0).sort((a, b) => experts.gate_mass[b] - experts.gate_mass[a]);

  figures.add({
    id: "expert-attention", part: "attention", title: "Attention of each expert's tokens", file: "expert_attention_summary", studies: ["expert_attention_patterns"], needs,
    read: "A row a layer, a cell an expert: what the tokens that it got attend to, weighted by gate.",
    warn: "experts far from their row: they serve tokens of one kind, such as those that read the image.",
    has: (component) => withExperts(component).length > 0,
    controls: (component) => {
      const regions = withExperts(component)[0].layer.regions ?? [];
      return [{ key: "show", label: "Show", options: [...regions.map((name, i) => [`region.${i}`, `Attention to ${regionName(name, i, regions)}`]), ["entropy", "Entropy, nats"], ["mean_distance", "Mean distance, positions"], ["received", "Attention received"], ["gate_mass", "Gate mass"]] }];
    },
    draw: ({ component, chosen }) => {
      const all = withExperts(component), ids = all.map((one) => one.layer.layer), width = Math.max(...all.map((one) => one.experts.gate_mass.length));
      const region = /^region\.(\d+)$/.exec(chosen.show)?.[1];
      const value = ({ experts }, e) => {
        if (chosen.show === "received") return experts.gate_mass[e] > 0 && experts.received ? experts.received[e] / experts.gate_mass[e] : null;
        if (region === undefined) return experts[chosen.show]?.[e] ?? null;
        if (!experts.flow?.[e]) return null;
        const weights = experts.flow_weight?.[e] ?? [], total = numbers.sum(weights);
        return total > 0 ? numbers.sum(experts.flow[e].map((row, from) => (row[region] ?? 0) * weights[from])) / total : null;
      };
      const z = all.map((one) => numbers.range(width).map((e) => value(one, e)));
      const unit = region === undefined ? { entropy: "nats", mean_distance: "positions", received: "times the mean", gate_mass: "gate weights" }[chosen.show] : "share";
      const show = region === undefined ? numbers.text : numbers.percent;
      return {
        ...parts.heatmap({ z, x: numbers.range(width), y: ids, xTitle: "Expert", yTitle: "Layer", unit, low: 0, text: width <= 16 && ids.length <= 14 ? (v) => (v === null ? "" : region === undefined ? numbers.text(Number(v.toPrecision(3))) : numbers.percent(v)) : null,
          tip: (i, e, v) => `layer ${moetap.plain(ids[i])}, expert ${e}<br><b>${show(v)}</b> ${region === undefined ? unit : "of the attention"}` }),
        onClick: (point) => selection.set({ layer: ids[point.y], expert: point.x }),
        table: { columns: [{ name: "layer", text: true }, { name: "expert" }, { name: chosen.show === "received" ? "received_mean" : chosen.show, unit }], rows: z.flatMap((row, i) => row.map((v, e) => [ids[i], e, v])) },
      };
    },
  });

  figures.add({
    id: "expert-patterns", part: "attention", title: "Attention patterns of experts", file: "expert_attention_patterns", studies: ["expert_attention_patterns"], needs,
    read: "A square an expert, largest gate mass first: queries from top to bottom, keys from left to right, both by relative position. One scale for all.",
    warn: "vertical stripes: all queries look at the same place; a bright diagonal: local work.",
    has: (component) => withExperts(component).some((one) => one.experts.pattern),
    draw: ({ component }) => {
      const { layer, experts } = pickExperts(component);
      const chosen = selection.state.expert !== null && experts.gate_mass[selection.state.expert] > 0
        ? [selection.state.expert, ...byMass(experts).filter((e) => e !== selection.state.expert)] : byMass(experts);
      const shown = chosen.filter((e) => experts.pattern[e]).slice(0, 8), columns = shown.length < 4 || parts.isNarrow() ? Math.min(2, shown.length) : 4, rows = Math.ceil(shown.length / columns);
      const most = Math.max(...shown.flatMap((e) => experts.pattern[e].flat()).filter(numbers.isNumber));
      const layout = { margin: { l: 20, r: 10, t: parts.isNarrow() ? 76 : 26, b: 10 }, annotations: [], showlegend: false, coloraxis: { colorscale: theme.scale("amount"), cmin: 0, cmax: most, colorbar: parts.bar("share") } };
      const traces = shown.map((e, i) => {
        const column = i % columns, row = Math.floor(i / columns), n = i === 0 ? "" : String(i + 1), gap = 0.03;
        const x = [column / columns + gap / 2, (column + 1) / columns - gap / 2], y = [1 - (row + 1) / rows + 0.02, 1 - row / rows - 0.07];
        layout[`xaxis${n}`] = { domain: x, visible: false, anchor: `y${n}`, constrain: "domain" };
        layout[`yaxis${n}`] = { domain: y, visible: false, anchor: `x${n}`, autorange: "reversed", scaleanchor: `x${n}`, constrain: "domain" };
        layout.annotations.push({ x: (x[0] + x[1]) / 2, y: y[1], xref: "paper", yref: "paper", xanchor: "center", yanchor: "bottom", showarrow: false, text: `<b>Expert ${e}</b>, ${numbers.percent(experts.gate_mass[e] / numbers.sum(experts.gate_mass))}`, font: { size: 12 } });
        return { type: "heatmap", z: experts.pattern[e], coloraxis: "coloraxis", xaxis: `x${n}`, yaxis: `y${n}`, name: `expert ${e}`,
          hovertemplate: `expert ${e}<br>query %{y} of 16, key %{x} of 16<br><b>%{z:.4f}</b><extra></extra>` };
      });
      return {
        traces, layout, height: 60 + rows * (parts.isNarrow() ? 170 : 240), note: "Rows stay empty where no sample has a token at that place: with fewer than 16 tokens some always do.", where: where(layer, `, ${shown.length} of ${chosen.length} experts, with their shares of the gate mass`), layer: layer.layer,
        table: { columns: [{ name: "expert" }, { name: "query_bin" }, { name: "key_bin" }, { name: "attention" }], rows: shown.flatMap((e) => experts.pattern[e].flatMap((row, i) => row.map((value, j) => [e, i, j, value]))) },
      };
    },
  });

  figures.add({
    id: "information-flow", part: "attention", title: "Information flow between regions", file: "expert_information_flow", studies: ["information_flow"], needs,
    read: "From the query's region (row) to the regions attended to (column): rows sum to 1. Of all tokens, or of an expert's.",
    warn: "rows with little weight rest on few tokens (hover shows it); columns that are dark in every row draw everything.",
    has: (component) => known(component).some((layer) => layer.flow) || Boolean(data.rows(component, "information_flow")),
    draw: ({ component }) => {
      const studied = known(component).some((layer) => layer.flow) ? null : data.rows(component, "information_flow");
      const expert = selection.state.expert;
      let id, regions, z, weight = null, whose;
      if (studied) {
        id = selection.oneLayer(data.distinct(studied.map((row) => row.layer)));
        const ofLayer = studied.filter((row) => row.layer === id), e = expert ?? ofLayer[0].expert_id;
        const own = ofLayer.filter((row) => row.expert_id === e);
        const count = Math.max(0, ...own.map((row) => row.from_region)) - Math.min(...ofLayer.map((row) => row.from_region)) + 1, base = Math.min(...ofLayer.map((row) => row.from_region));
        regions = numbers.range(Math.max(count, 1)).map((i) => `part ${i + 1}`);
        z = regions.map(() => regions.map(() => null));
        for (const row of own) z[row.from_region - base][row.to_region - base] = row.share;
        whose = `tokens of expert ${e}`;
      } else {
        const layer = pick(known(component).filter((one) => one.flow));
        const experts = [layer.experts ?? []].flat()[0];
        id = layer.layer;
        regions = layer.regions.map(regionName);
        const own = expert !== null && Boolean(experts?.flow?.[expert]);
        z = own ? experts.flow[expert] : layer.flow;
        weight = own ? experts.flow_weight[expert] : null;
        whose = own ? `tokens of expert ${expert}` : "all tokens";
      }
      return {
        ...parts.heatmap({ z, x: regions, y: regions, xTitle: "To region", yTitle: "From region", unit: "share of the row", low: 0, high: 1, square: true, text: (value) => (value === null ? "" : value.toFixed(2)),
          tip: (i, j, value) => `${moetap.plain(regions[i])} → ${moetap.plain(regions[j])}<br><b>${numbers.percent(value)}</b>${weight ? `<br>row's gate weight ${numbers.text(weight[i])}` : ""}` }),
        where: `Layer ${id}, ${whose}`, layer: id,
        table: { columns: [{ name: "from_region", text: true }, { name: "to_region", text: true }, { name: "share" }], rows: z.flatMap((row, i) => row.map((value, j) => [regions[i], regions[j], value])) },
      };
    },
  });

  /** [[expert, [six values]]] of a layer, from the run or from the study. */
  const specialization = (component) => {
    const names = Object.keys(kPlane);
    const all = withExperts(component).filter((one) => one.experts.specialization);
    if (all.length) {
      const { layer, experts } = all.find((one) => one.layer.layer === selection.oneLayer(all.map((o) => o.layer.layer)));
      return { id: layer.layer, rows: experts.specialization.map((values, e) => [e, Array.isArray(values) ? values : names.map((name) => values?.[name] ?? null)]) };
    }
    const studied = data.rows(component, "region_specialization");
    const id = selection.oneLayer(data.distinct(studied.map((row) => row.layer)));
    const columns = Object.keys(studied[0]).filter((name) => !["component", "layer", "expert_id", "span"].includes(name));
    return { id, rows: studied.filter((row) => row.layer === id).map((row) => [row.expert_id, columns.map((name) => row[name])]) };
  };

  figures.add({
    id: "region-specialization", part: "attention", title: "Region specialisation", file: "expert_attention_specialization", studies: ["region_specialization"], needs: `${needs}, or the array attn_weights.npy`,
    read: "How many times more than evenly the tokens of an expert attend to six regions of the query × key plane; 1 is even. Widest span first.",
    warn: "values far from 1 in all rows alike belong to the layer, not to the expert.",
    has: (component) => withExperts(component).some((one) => one.experts.specialization) || Boolean(data.rows(component, "region_specialization")),
    draw: ({ component }) => {
      const { id, rows } = specialization(component), names = Object.values(kPlane);
      const span = (values) => {
        const finite = values.filter(numbers.isNumber);
        return finite.length ? Math.max(...finite) - Math.min(...finite) : -1;
      };
      const shown = rows.filter(([, values]) => span(values) >= 0).sort((a, b) => span(b[1]) - span(a[1])).slice(0, 24);
      const z = shown.map(([, values]) => values.map((value) => (value === null ? null : Math.log2(Math.max(value, 1 / 16)))));
      const drawn = parts.heatmap({ z, x: names, y: shown.map(([e]) => `expert ${e}`), xTitle: "", yTitle: "", unit: "times even", center: 0,
        tip: (i, j) => `expert ${shown[i][0]}, ${names[j]}<br><b>${numbers.text(shown[i][1][j])}</b> times even`, text: (_, i, j) => (shown[i][1][j] === null ? "" : shown[i][1][j].toFixed(2)) });
      drawn.traces[0].meta = { values: shown.map(([, values]) => values) };
      const places = numbers.range(9).map((i) => i - 4).filter((p) => Math.abs(p) <= drawn.traces[0].zmax);
      Object.assign(drawn.traces[0].colorbar, { tickvals: places, ticktext: places.map((p) => (p < 0 ? `1/${2 ** -p}` : String(2 ** p))) });
      return { ...drawn, where: `Layer ${id}`, layer: id, onClick: (point) => selection.set({ layer: id, expert: shown[point.y][0] }),
        table: { columns: [{ name: "expert" }, ...names.map((name) => ({ name })), { name: "span" }], rows: rows.map(([e, values]) => [e, ...values, span(values) < 0 ? null : span(values)]) } };
    },
  });

  figures.add({
    id: "sankey-region", part: "attention", title: "From region through expert to region", file: "three_level_sankey", studies: ["sankey_group_expert_region"], needs,
    read: "Gate weight from the region where tokens stand, through the ten heaviest experts, to the regions that they attend to. What flows in flows out.",
    warn: "an expert fed by one region only; a region that nothing flows to.",
    has: (component) => withExperts(component).some((one) => one.experts.flow?.some(Boolean) && one.experts.flow_weight),
    draw: ({ component }) => {
      const { layer, experts } = pickExperts(component);
      const regions = layer.regions.map(regionName), top = byMass(experts).filter((e) => experts.flow[e]).slice(0, 10);
      const palette = (i) => theme.color(i, 8);
      const nodes = [...regions.map((name, i) => ({ name, color: palette(i) })), ...top.map((e) => ({ name: `Expert ${e}`, color: theme.color(e, experts.gate_mass.length) })), ...regions.map((name, i) => ({ name: `to ${name}`, color: palette(i) }))];
      const links = [];
      top.forEach((e, k) => {
        regions.forEach((name, r) => {
          const value = experts.flow_weight[e][r];
          if (value > 0) links.push({ source: r, target: regions.length + k, value, tip: `${moetap.plain(name)} → expert ${e}<br><b>${numbers.text(value)}</b> gate weight` });
          const out = numbers.sum(experts.flow[e].map((row, from) => (row[r] ?? 0) * experts.flow_weight[e][from]));
          if (out > 0) links.push({ source: regions.length + k, target: regions.length + top.length + r, value: out, tip: `expert ${e} → ${moetap.plain(name)}<br><b>${numbers.text(out)}</b> gate weight` });
        });
      });
      return { ...parts.sankey({ nodes, links }), where: where(layer), layer: layer.layer,
        table: { columns: [{ name: "from", text: true }, { name: "to", text: true }, { name: "gate_weight" }], rows: links.map((link) => [nodes[link.source].name, nodes[link.target].name, link.value]) } };
    },
  });
})();
