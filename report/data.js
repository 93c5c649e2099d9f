"use strict";
// The page's data, as `moetap report` put it there (docs/report.md says what it holds), and the ways to ask it.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const runs = data.runs ?? [];
  const analysis = data.analysis ?? null;

  // The page keeps counts only: what follows from them is computed here, by the definitions of summary.json.
  const derive = (layer) => {
    const counts = layer.selected_count;
    if (!Array.isArray(counts)) return;
    const all = counts.reduce((a, b) => a + b, 0), mean = all / counts.length;
    layer.usage ??= layer.tokens > 0 ? counts.map((n) => n / layer.tokens) : null;
    layer.load_ratio ??= all > 0 ? counts.map((n) => n / mean) : null;
    layer.zero_weight_count ??= counts.map(() => 0);
  };
  for (const run of runs) for (const phase of Object.values(run.phases ?? {})) Object.values(phase).forEach((layers) => layers.forEach(derive));

  // Studies of a log stand under a component of their own; their tables name the component of each row.
  /** The components of which the tables hold a value, not only names and counts. */
  const kNoValues = new Set(["component", "run", "task", "category", "layer", "entries"]);
  const measured = (tables) => new Set(Object.values(tables).flatMap((table) => (table.component ?? []).filter((_, i) => Object.entries(table).some(([column, cells]) => !kNoValues.has(column) && typeof cells[i] === "number"))));
  /** The sentence of a log names no component: it is that of the only one with values, else it says whose it may be. */
  const sentenceFor = (owner, owners, sentence) => (!sentence || !owners.has(owner) ? "" : owners.size === 1 ? sentence : `${sentence} (of ${[...owners].join(" or ")})`);
  const shareOut = () => {
    for (const [name, studies] of Object.entries(analysis?.components ?? {})) {
      if (runs[0]?.components[name]) continue;
      for (const [key, study] of Object.entries(studies)) {
        const owners = measured(study.tables ?? {});
        for (const [title, table] of Object.entries(study.tables ?? {})) {
          for (const owner of new Set(table.component ?? [])) {
            if (owner === name || typeof owner !== "string") continue;
            const own = ((analysis.components[owner] ??= {})[key] ??= { sentence: sentenceFor(owner, owners, study.sentence), notices: study.notices, tables: {} });
            own.tables[title] = Object.fromEntries(Object.entries(table).filter(([column]) => column !== "component").map(([column, cells]) => [column, cells.filter((_, i) => table.component[i] === owner)]));
            study.shared_out = true;
          }
        }
        if (study.shared_out) delete studies[key];
      }
      if (!Object.keys(studies).length) delete analysis.components[name];
    }
  };
  shareOut();

  const place = (id) => (/^\d+$/.test(id) ? Number(id) : Infinity);
  const byPlace = (a, b) => place(a) - place(b) || (a < b ? -1 : 1);
  const kArrays = "arrays";
  const kLayerColumns = ["layer", "from_layer", "to_layer", "layer_a", "layer_b"];

  // The tables of some studies count layers from 1, as numbers; those of others have their names, as texts. In the page
  // all are names: of the run's routers, in their order, or of the tables that have names.
  const nameLayers = (component, studies) => {
    const tables = Object.values(studies).flatMap((study) => Object.values(study.tables ?? {}));
    const named = new Set((runs[0]?.components[component] ?? []).map((layer) => layer.layer));
    if (!named.size) for (const table of tables) for (const id of table.layer ?? []) if (typeof id === "string") named.add(id);
    const order = runs[0]?.components[component] ? [...named] : [...named].sort(byPlace);
    for (const [name, study] of Object.entries(studies)) {
      // Sentences name a run's layers by id. Those of the notebook's studies of its arrays count them from 1.
      study.counts_from_one = component === kArrays && (name.startsWith("sankey_") || Object.values(study.tables ?? {}).some((table) => kLayerColumns.some((column) => table[column]?.some((id) => typeof id === "number"))));
      for (const table of Object.values(study.tables ?? {})) {
        for (const column of kLayerColumns) {
          if (!Array.isArray(table[column])) continue;
          table[column] = table[column].map((id) => (typeof id === "number" ? order[id - 1] ?? String(id) : id));
        }
      }
    }
  };
  for (const [component, studies] of Object.entries(analysis?.components ?? {})) nameLayers(component, studies);

  // Without a run, the study of usage stands in for it: counts and balance, layer by layer.
  const standIn = () => {
    const found = {};
    for (const [component, studies] of Object.entries(analysis?.components ?? {})) {
      const { usage, load_balance: balance } = studies.usage?.tables ?? {};
      if (!usage?.layer || !balance?.layer) continue;
      found[component] = balance.layer.map((id, i) => {
        const layer = { layer: id, name: "", top_k: null, scoring: "", top1_count: [], mean_weight: [], selected_count: [], repeat_rate: null };
        for (const column of Object.keys(balance)) if (column !== "layer") layer[column] = balance[column][i];
        usage.layer.forEach((other, row) => {
          if (other === id) layer.selected_count[usage.expert_id[row]] = usage.selected_count[row];
        });
        layer.num_experts = layer.selected_count.length;
        const slots = layer.selected_count.reduce((all, n) => all + n, 0) / layer.tokens;
        if (Number.isInteger(slots)) layer.top_k = slots;
        return layer;
      });
    }
    if (Object.keys(found).length) runs.push({ label: data.title, model: "", forwards: null, components: found, attention: {}, phases: {} });
  };
  if (!runs.length) standIn();
  for (const run of runs) Object.values(run.components).forEach((layers) => layers.forEach(derive));

  // Of many experts the tables hold the heaviest, by number.
  for (const run of runs) {
    for (const experts of Object.values(run.attention ?? {}).flat().flatMap((layer) => layer.experts ?? [])) {
      for (const [key, table] of Object.entries(experts)) {
        if (table === null || typeof table !== "object" || Array.isArray(table) || !experts.gate_mass) continue;
        experts[key] = experts.gate_mass.map((_, e) => table[e] ?? null);
      }
    }
  }

  // A sample's tokens stand in order, and its picture is one of those of all samples.
  for (const { samples } of Object.values(data.tokens?.components ?? {})) {
    for (const sample of samples) {
      sample.position ??= sample.token_id.map((_, t) => t);
      sample.phase ??= sample.token_id.map(() => 0);
      if (sample.image) sample.image.src = data.tokens.images[sample.image.picture];
    }
  }

  const components = () => {
    const names = new Set();
    for (const run of runs) for (const name of Object.keys(run.components)) names.add(name);
    for (const run of runs) for (const name of Object.keys(run.attention ?? {})) names.add(name);
    for (const name of Object.keys(analysis?.components ?? {})) names.add(name);
    for (const name of Object.keys(data.tokens?.components ?? {})) names.add(name);
    return [...names];
  };

  /** The layers of a component in a run, with their metrics. */
  const layers = (component, run = 0) => runs[run]?.components[component] ?? [];

  const attentionLayers = (component, run = 0) => runs[run]?.attention?.[component] ?? [];

  /** Ids of all layers that any part of the data has for a component, in order. */
  const layerIds = (component) => {
    const ids = new Set();
    for (let run = 0; run < runs.length; ++run) {
      for (const layer of layers(component, run)) ids.add(layer.layer);
      for (const layer of attentionLayers(component, run)) ids.add(layer.layer);
    }
    for (const study of Object.values(analysis?.components?.[component] ?? {})) {
      for (const table of Object.values(study.tables ?? {})) {
        for (const id of table.layer ?? table.from_layer ?? []) ids.add(String(id));
        for (const id of table.to_layer ?? []) ids.add(String(id));
      }
    }
    for (const layer of data.tokens?.components?.[component]?.layers ?? []) ids.add(layer);
    return [...ids].sort(byPlace);
  };

  const numExperts = (component) => {
    let most = 0;
    for (let run = 0; run < runs.length; ++run) {
      for (const layer of layers(component, run)) most = Math.max(most, layer.num_experts ?? 0);
    }
    for (const study of Object.values(analysis?.components?.[component] ?? {})) {
      for (const table of Object.values(study.tables ?? {})) {
        for (const id of table.expert_id ?? []) most = Math.max(most, Number(id) + 1);
      }
    }
    return most;
  };

  /** The studies of `moetap analyze` for a component: {name: {sentence, tables, notices}}. */
  const studies = (component) => analysis?.components?.[component] ?? {};

  /** A table of a study as rows; null where it is not there or empty. Only rows for which `keep` holds. */
  const rows = (component, table, keep = () => true) => {
    for (const study of Object.values(studies(component))) {
      const columns = study.tables?.[table];
      if (!columns) continue;
      const names = Object.keys(columns).filter((name) => Array.isArray(columns[name]));
      const found = [];
      for (let i = 0; i < (columns[names[0]]?.length ?? 0); ++i) {
        const row = {};
        for (const name of names) row[name] = columns[name][i];
        for (const name of kLayerColumns) if (name in row) row[name] = String(row[name]);
        if (keep(row)) found.push(row);
      }
      return found.length ? found : null;
    }
    return null;
  };

  /** What a table left out to keep the page small: the sentence, or null. */
  const leftOut = (component, table) => {
    for (const study of Object.values(studies(component))) {
      if (study.left_out?.[table]) return study.left_out[table];
    }
    return null;
  };

  const distinct = (list) => [...new Set(list)];

  moetap.data = {
    all: data, runs, analysis, components, layers, attentionLayers, layerIds, numExperts, studies, rows, leftOut, distinct,
    runName: (run) => runs[run]?.label ?? "",
  };
})();
