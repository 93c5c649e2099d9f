"use strict";
// Tokens, categories and groups that experts prefer.
(() => {
  const { data, figures, parts, numbers, selection, theme } = moetap;
  const pick = (rows) => {
    const id = selection.oneLayer(data.distinct(rows.map((row) => row.layer)));
    return { id, own: rows.filter((row) => row.layer === id) };
  };

  /** {id, groups, experts, z [groups][experts]}: selections' shares or usage by group. */
  const byGroup = (component) => {
    const studied = data.rows(component, "group_usage");
    if (studied) {
      const { id, own } = pick(studied), groups = data.distinct(own.map((row) => String(row.group))), width = Math.max(...own.map((row) => row.expert_id)) + 1;
      const z = groups.map(() => Array(width).fill(null)), bounds = groups.map(() => Array(width).fill(null)), tokens = new Map();
      for (const row of own) {
        const i = groups.indexOf(String(row.group));
        z[i][row.expert_id] = row.usage;
        bounds[i][row.expert_id] = [row.usage_low, row.usage_high];
        tokens.set(String(row.group), row.tokens);
      }
      return { id, groups, width, z, bounds, tokens, note: data.leftOut(component, "group_usage") };
    }
    const log = data.all.categories?.[component];
    if (!log) return null;
    const id = selection.oneLayer(Object.keys(log.layers));
    const groups = log.categories, counts = log.layers[id], width = Math.max(...counts.map((row) => row.length));
    return { id, groups, width, z: counts.map((row) => { const all = log.tokens[id][counts.indexOf(row)]; return row.map((n) => (all > 0 ? n / all : null)); }), bounds: null, tokens: new Map(groups.map((name, i) => [name, log.tokens[id][i]])), counts, note: log.note ?? null };
  };
  const hasGroups = (component) => Boolean(data.rows(component, "group_usage")) || Boolean(data.all.categories?.[component]);

  figures.add({
    id: "categories", part: "meaning", title: "Categories and experts", file: "group_usage", studies: ["group_usage", "groups"],
    read: "Selections a token, of the tokens of each category. Against the mean: orange experts are used more for the category than for the others.",
    warn: "rows that look alike: routing does not follow the category.",
    needs: "a dump and samples with doc.category (moetap run --samples), or --group-by KEY",
    has: hasGroups,
    controls: () => [{ key: "show", label: "Show", options: [["usage", "Selections a token"], ["against", "Against the mean of all"]] }],
    draw: ({ component, chosen }) => {
      const { id, groups, width, z, bounds, tokens, note } = byGroup(component);
      const all = numbers.sum([...tokens.values()]);
      const mean = numbers.range(width).map((e) => numbers.sum(groups.map((name, i) => (z[i][e] ?? 0) * (tokens.get(name) ?? 0))) / (all || 1));
      const shown = chosen.show === "usage" ? z : z.map((row) => row.map((value, e) => (value === null ? null : value - mean[e])));
      const y = groups.map((name) => moetap.short(name, 24));
      return {
        ...parts.heatmap({ z: shown, x: numbers.range(width), y, xTitle: "Expert", yTitle: "", unit: "selections a token", ...(chosen.show === "usage" ? { low: 0 } : { center: 0 }),
          text: width <= 12 && groups.length <= 20 ? (value) => (value === null ? "" : value.toFixed(2)) : null,
          tip: (i, e, value) => `${moetap.plain(groups[i], 60)}, expert ${e}<br><b>${numbers.text(value)}</b> selections a token${bounds?.[i][e]?.[0] !== undefined && bounds?.[i][e]?.[0] !== null ? ` (95 %: ${numbers.text(bounds[i][e][0])} to ${numbers.text(bounds[i][e][1])})` : ""}<br>${numbers.text(tokens.get(groups[i]))} tokens` }),
        where: `Layer ${id}`, layer: id, note, onClick: (point) => selection.set({ layer: id, expert: point.x }),
        table: { columns: [{ name: "group", text: true }, { name: "expert_id" }, { name: "usage", unit: "selections a token" }, { name: "tokens" }, { name: "against_mean", unit: "selections a token" }], rows: groups.flatMap((name, i) => numbers.range(width).map((e) => [name, e, z[i][e], tokens.get(name), z[i][e] === null ? null : z[i][e] - mean[e]])) },
      };
    },
  });

  const entropyOf = (values) => {
    const p = numbers.shares(values);
    return numbers.sum(p.filter((x) => x > 0).map((x) => -x * Math.log(x)));
  };
  figures.add({
    id: "category-entropy", part: "meaning", title: "Entropy of each category's load", file: "category_entropy", studies: ["group_usage"],
    read: "Entropy of the load over experts, category by category, over the largest possible: 1 uses all experts alike.",
    warn: "a category far under the others is served by few experts.",
    needs: "a dump and samples with doc.category (moetap run --samples), or --group-by KEY",
    has: hasGroups,
    draw: ({ component }) => {
      const { id, groups, width, z, note } = byGroup(component);
      const rows = groups.map((name, i) => ({ name, value: width > 1 ? entropyOf(z[i]) / Math.log(width) : null })).sort((a, b) => a.value - b.value);
      return { height: Math.min(720, 110 + rows.length * 24), where: `Layer ${id}`, layer: id, note,
        traces: [{ type: "bar", orientation: "h", x: rows.map((row) => row.value), y: numbers.range(rows.length), marker: { color: theme.variable("accent") }, customdata: rows.map((row) => `${moetap.plain(row.name, 60)}<br><b>${numbers.percent(row.value)}</b> of the largest entropy`), hovertemplate: "%{customdata}<extra></extra>" }],
        layout: { showlegend: false, xaxis: { range: [0, 1.02], title: { text: "Entropy over the largest" } }, yaxis: { ...parts.ticks(rows.map((row) => moetap.short(row.name, 24)), 60), ticktext: rows.map((row) => moetap.plain(row.name, 24)), tickvals: numbers.range(rows.length) } },
        table: { columns: [{ name: "category", text: true }, { name: "entropy_ratio" }], rows: rows.map((row) => [row.name, row.value]) } };
    },
  });

  figures.add({
    id: "group-difference", part: "meaning", title: "Differences between groups", file: "group_difference", studies: ["group_difference", "groups"],
    read: "Jensen-Shannon divergence of the shares of selections of two groups, in bits: 0 the same, 1 nothing in common. Hover has the p-value.",
    warn: "large p-values: the difference is what chance gives.", needs: "a run with a dump, and --group-by with a field of the samples' doc",
    has: (component) => Boolean(data.rows(component, "group_difference")),
    draw: ({ component }) => {
      const { id, own } = pick(data.rows(component, "group_difference")), groups = data.distinct(own.flatMap((row) => [String(row.group_a), String(row.group_b)]));
      const z = groups.map(() => groups.map(() => null)), p = groups.map(() => groups.map(() => null));
      for (const row of own) {
        const i = groups.indexOf(String(row.group_a)), j = groups.indexOf(String(row.group_b));
        z[i][j] = z[j][i] = row.js_divergence;
        p[i][j] = p[j][i] = row.p_value;
      }
      const names = groups.map((name) => moetap.short(name, 24));
      return { ...parts.heatmap({ z, x: names, y: names, xTitle: "", yTitle: "", unit: "bits", low: 0, square: true, text: groups.length <= 10 ? (value) => (value === null ? "" : numbers.text(Number(value.toPrecision(2)))) : null,
        tip: (i, j, value) => `${moetap.plain(groups[i])} and ${moetap.plain(groups[j])}<br><b>${numbers.text(value)}</b> bits, p = ${numbers.text(p[i][j])}` }), where: `Layer ${id}`, layer: id,
      table: figures.tableOf(own, [{ name: "group_a", text: true }, { name: "group_b", text: true }, "js_divergence", "p_value"]) };
    },
  });

  figures.add({
    id: "enrichment", part: "meaning", title: "Tokens that an expert prefers", file: "token_expert_enrichment", studies: ["token_expert_enrichment"],
    read: "Bars are lifts: how many times as often as by chance (the dashed line) the expert gets the token. Smallest p-values first (Benjamini-Hochberg).",
    warn: "small counts; experts without a list have no token that they prefer beyond chance.", needs: "a run with a dump that has token ids",
    has: (component) => Boolean(data.rows(component, "token_expert_enrichment")),
    draw: ({ component }) => {
      const { id, own } = pick(data.rows(component, "token_expert_enrichment"));
      const liked = own.filter((row) => row.lift > 1), known = data.distinct((liked.length ? liked : own).map((row) => row.expert_id)), expert = known.includes(selection.state.expert) ? selection.state.expert : known[0];
      const rows = own.filter((row) => row.expert_id === expert).sort((a, b) => a.p_value - b.p_value || b.lift - a.lift);
      // The others, which the expert gets less often than chance, are in the table.
      const preferred = rows.filter((row) => row.lift > 1), shown = (preferred.length ? preferred : rows).slice(0, 20).reverse(), name = (row) => (row.text !== null && row.text !== undefined && row.text !== "" ? JSON.stringify(row.text) : moetap.tokenText?.(row.token_id) ?? `id ${row.token_id}`);
      return { height: 120 + shown.length * 22, where: `Layer ${id}, expert ${expert}`, layer: id, note: [preferred.length ? null : "The expert prefers none of these tokens: it gets each of them less often than chance.", data.leftOut(component, "token_expert_enrichment")],
        traces: [{ type: "bar", orientation: "h", x: shown.map((row) => row.lift), y: numbers.range(shown.length), marker: { color: theme.variable("accent") }, customdata: shown.map((row) => `${moetap.plain(name(row))} (id ${row.token_id})<br><b>${numbers.text(row.lift)}</b> times chance, ${numbers.text(row.count)} tokens, p = ${numbers.text(row.p_value)}`), hovertemplate: "%{customdata}<extra></extra>" }],
        layout: { showlegend: false, shapes: [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: 1, x1: 1, line: { color: theme.variable("ink"), width: 1, dash: "dash" } }], xaxis: { title: { text: "Times chance" } }, yaxis: { tickvals: numbers.range(shown.length), ticktext: shown.map((row) => moetap.plain(name(row), 22)), showgrid: false } },
        table: figures.tableOf(rows, ["token_id", { name: "text", text: true }, "count", "lift", "p_value"]) };
    },
  });

  // Sequences belong to no component of a model: their figures stand with each.
  const ofSequences = (table) => Object.keys(data.analysis?.components ?? {}).map((name) => data.rows(name, table)).find(Boolean) ?? null;
  const residues = (set) => ofSequences(`aa_correlation_${set}`);
  figures.add({
    id: "aa-correlation", part: "meaning", title: "Amino-acid correlation", file: "aa_correlation", studies: ["aa_correlation"],
    read: "Pearson correlation of residue fractions over the sequences, from −0.4 to 0.4.",
    warn: "pairs that the composition of few families explains.", needs: "FASTA files: --positive FILE --negative FILE",
    has: () => Boolean(residues("positive") ?? residues("negative")),
    controls: () => [{ key: "set", label: "Set", options: ["positive", "negative"].filter((set) => residues(set)).map((set) => [set, set]) }],
    draw: ({ chosen }) => {
      const rows = residues(chosen.set), names = rows.map((row) => row.residue), z = rows.map((row) => names.map((name) => row[name] ?? null));
      return { ...parts.heatmap({ z, x: names, y: names, xTitle: "", yTitle: "", unit: "correlation", center: 0, high: 0.4, square: true, tip: (i, j, value) => `${moetap.plain(names[i])} and ${moetap.plain(names[j])}<br><b>${numbers.text(value)}</b>` }),
        table: { columns: [{ name: "residue", text: true }, ...names.map((name) => ({ name }))], rows: rows.map((row) => [row.residue, ...names.map((name) => row[name])]) } };
    },
  });

  figures.add({
    id: "aa-composition", part: "meaning", title: "Amino-acid composition", file: "aa_composition", studies: ["aa_composition"], needs: "FASTA files: --positive FILE --negative FILE",
    read: "Share of each residue in the positive and the negative sequences.", warn: "residues that tell the sets apart by themselves.",
    has: () => Boolean(ofSequences("aa_composition")),
    draw: () => {
      const rows = ofSequences("aa_composition");
      return { height: 320, traces: ["positive", "negative"].map((set, i) => ({ type: "bar", name: set, x: rows.map((row) => row.residue), y: rows.map((row) => row[set]), marker: { color: theme.color(i) }, hovertemplate: `%{x}, ${set}<br><b>%{y:.4f}</b><extra></extra>` })),
        layout: { xaxis: { type: "category", title: { text: "Residue" } }, yaxis: { title: { text: "Share" } } }, table: figures.tableOf(rows, [{ name: "residue", text: true }, "positive", "negative"]) };
    },
  });
  figures.add({
    id: "logged-entropy", part: "meaning", title: "Entropy by category, from LibMoE's log", file: "logged_category_entropy", studies: ["logged_metrics"], needs: "LibMoE's <task>.json with categories",
    read: "Mean entropy of the load over experts, category by category and layer by layer, over the largest possible.", warn: "categories that few experts serve.",
    has: (component) => Boolean(data.rows(component, "category_entropy", (row) => numbers.isNumber(row.dist_entropy))),
    draw: ({ component }) => {
      const rows = data.rows(component, "category_entropy"), ids = data.distinct(rows.map((row) => row.layer)), names = data.distinct(rows.map((row) => row.category));
      const z = names.map((name) => ids.map((id) => rows.find((row) => row.category === name && row.layer === id)?.dist_entropy ?? null));
      return { ...parts.heatmap({ z, x: ids, y: names.map((name) => moetap.short(name, 24)), xTitle: "Layer", yTitle: "", unit: "of the largest", low: 0, text: ids.length <= 14 ? (value) => (value === null ? "" : value.toFixed(2)) : null, tip: (i, j, value) => `${moetap.plain(names[i], 60)}, layer ${moetap.plain(ids[j])}<br><b>${numbers.percent(value)}</b> of the largest entropy` }), table: { columns: Object.keys(rows[0]).map((name) => ({ name })), rows: rows.map((row) => Object.values(row)) } };
    },
  });
})();
