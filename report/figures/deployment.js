"use strict";
// What routing means for serving: caches, placement over GPUs, imbalance of forwards, prefetching.
(() => {
  const { data, figures, parts, numbers, selection, theme } = moetap;
  const needs = "a run with a dump (moetap run --dump ids), or arrays";
  const pick = (rows) => {
    const id = selection.oneLayer(data.distinct(rows.map((row) => row.layer)));
    return { id, own: rows.filter((row) => row.layer === id) };
  };

  figures.add({
    id: "expert-cache", part: "deployment", title: "A cache of experts", file: "expert_cache", studies: ["expert_cache"], needs: "a run with a dump of generated tokens, or --cache-phase all: accesses of a prompt are not counted else",
    read: "Hit rate of a cache that holds so many of the layer's experts: least recently used, the best possible (Belady), and the most used experts pinned.",
    warn: "lru far under pinned: recency does not help; both far under the best: prefetching would.",
    has: (component) => Boolean(data.rows(component, "expert_cache", (row) => row.lru !== null)),
    draw: ({ component }) => {
      const { id, own } = pick(data.rows(component, "expert_cache", (row) => row.lru !== null)), capacity = own.map((row) => row.capacity);
      return { ...parts.lines({ layers: capacity, xTitle: "Experts kept", yTitle: "Hit rate", range: [0, 1.02], series: [["optimal", "best possible"], ["lru", "least recently used"], ["static", "most used, pinned"]].map(([key, name]) => ({ name, values: own.map((row) => row[key]) })) }),
        where: `Layer ${id}`, layer: id, note: data.leftOut(component, "expert_cache"), table: figures.tableOf(own, ["capacity", "accesses", "lru", "optimal", "static"]) };
    },
  });

  figures.add({
    id: "placement", part: "deployment", title: "Placement on GPUs", file: "placement", studies: ["placement"], needs,
    read: "Load of the busiest GPU over the mean, for experts placed in order or balanced by load; the marker is the run, the bar from median to 95 % of forwards.",
    warn: "a run near 1 with forwards far above: the load moves between GPUs, and each step waits for the busiest.",
    has: (component) => Boolean(data.rows(component, "placement")),
    draw: ({ component }) => {
      const { id, own } = pick(data.rows(component, "placement"));
      const kinds = data.distinct(own.map((row) => row.placement));
      const traces = kinds.map((kind, i) => {
        const rows = own.filter((row) => row.placement === kind);
        return { type: "scatter", mode: "markers+lines", name: moetap.plain(kind), x: rows.map((row) => String(row.gpus)), y: rows.map((row) => row.imbalance_run), line: { width: 1, color: theme.color(i), dash: theme.dash(i) }, marker: { size: 10, symbol: theme.symbol(i), color: theme.color(i) },
          error_y: { type: "data", symmetric: false, array: rows.map((row) => Math.max(0, (row.imbalance_p95 ?? row.imbalance_run) - row.imbalance_run)), arrayminus: rows.map((row) => Math.max(0, row.imbalance_run - (row.imbalance_p50 ?? row.imbalance_run))), color: theme.color(i), thickness: 1.5 },
          customdata: rows.map((row) => `${row.gpus} GPUs, ${moetap.plain(kind)}<br>run <b>${numbers.text(row.imbalance_run)}</b>, forwards: median ${numbers.text(row.imbalance_p50)}, 95 % ${numbers.text(row.imbalance_p95)}, worst ${numbers.text(row.imbalance_max)}<br>a token's experts lie on ${numbers.text(row.fanout)} GPUs`), hovertemplate: "%{customdata}<extra></extra>" };
      });
      return { traces, height: 340, where: `Layer ${id}`, layer: id, note: data.leftOut(component, "placement"), layout: { xaxis: { type: "category", title: { text: "GPUs" } }, yaxis: { title: { text: "Busiest GPU over the mean" } } },
        table: figures.tableOf(own, ["gpus", "placement", "imbalance_run", "imbalance_p50", "imbalance_p95", "imbalance_max", "fanout"]) };
    },
  });

  figures.add({
    id: "imbalance", part: "deployment", title: "Imbalance of single forwards", file: "imbalance", studies: ["imbalance"], needs,
    read: "Load of the busiest expert over the mean: in the whole run, and in the median, the 95th percentile and the worst forward.",
    warn: "forwards far above the run: each is uneven in its own way, which the run's sum hides.",
    has: (component) => Boolean(data.rows(component, "imbalance")),
    draw: ({ component }) => {
      const rows = data.rows(component, "imbalance"), ids = rows.map((row) => row.layer);
      return { ...parts.lines({ layers: ids, yTitle: "Busiest over mean", series: [["run", "whole run"], ["p50", "median forward"], ["p95", "95th percentile"], ["max", "worst forward"]].map(([key, name]) => ({ name, values: rows.map((row) => row[key]) })), reference: { value: 1, text: "even" } }),
        onClick: (point) => selection.set({ layer: ids[point.x] }), table: figures.tableOf(rows, ["layer", "forwards", "run", "p50", "p95", "max"]) };
    },
  });

  figures.add({
    id: "predictability", part: "deployment", title: "Can the next layer be foreseen?", file: "predictability", studies: ["predictability"], needs,
    read: "Share of a token's experts in the next layer that were named beforehand, from its experts here, from its token id, or always the most used.",
    warn: "little above the most used: prefetching by this layer's choice would not pay.",
    has: (component) => Boolean(data.rows(component, "predictability", (row) => row.recall_ids !== null)),
    draw: ({ component }) => {
      const rows = data.rows(component, "predictability"), steps = rows.map((row) => `${row.from_layer} → ${row.to_layer}`);
      return { ...parts.lines({ layers: steps, xTitle: "Step", yTitle: "Recall", range: [0, 1.02], series: [["recall_ids", "by this layer's experts"], ["recall_token", "by the token id"], ["recall_popular", "always the most used"]].map(([key, name]) => ({ name, values: rows.map((row) => row[key]) })).filter((one) => one.values.some(numbers.isNumber)) }),
        table: figures.tableOf(rows, ["from_layer", "to_layer", "tokens", "recall_popular", "recall_ids", "recall_token"]) };
    },
  });
})();
