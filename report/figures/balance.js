"use strict";
// Metrics over layers: balance, certainty, z-loss, repeats.
(() => {
  const { data, figures, parts, numbers, selection } = moetap;
  const { known } = moetap.usage;

  /** A line a metric and run. `metrics` [[key, name, unit]]. */
  const overLayers = (figure, metrics, yTitle, more = {}) => figures.add({
    part: "balance", needs: "a run of moetap", runs: true, ...figure,
    has: (component) => known(component).some((layer) => metrics.some(([key]) => numbers.isNumber(layer[key]))),
    draw: ({ component }) => {
      const ids = data.layerIds(component).filter((id) => numbers.range(data.runs.length).some((run) => known(component, run).some((layer) => layer.layer === id)));
      const series = [];
      data.runs.forEach((run, r) => {
        const byId = new Map(known(component, r).map((layer) => [layer.layer, layer]));
        metrics.forEach(([key, name, unit], m) => {
          const values = ids.map((id) => byId.get(id)?.[key] ?? null);
          if (!values.some(numbers.isNumber)) return;
          series.push({ name: data.runs.length > 1 ? `${name}, ${run.label}` : name, values, unit, color: m, dash: data.runs.length > 1 ? r : m, column: r === 0 ? key : `${key} (${run.label})` });
        });
      });
      return {
        ...parts.lines({ layers: ids, series, yTitle, ...more }),
        onClick: (point) => selection.set({ layer: ids[point.x] }),
        table: { columns: [{ name: "layer", text: true }, ...series.map((one) => ({ name: one.column, unit: one.unit, about: one.name }))], rows: ids.map((id, i) => [id, ...series.map((one) => one.values[i])]) },
      };
    },
  });

  overLayers({ id: "balance", title: "Balance", file: "load_balance", studies: ["layer_statistics"],
    read: "Each measure is 0 when all experts get the same load; variation is the standard deviation over the mean.",
    warn: "variation above the dashed line; a rise in the first or the last layers; max violation: how far the busiest expert lies above the mean." },
  [["load_cv", "variation", ""], ["max_violation", "max violation", ""], ["gini", "Gini", ""]], "0 = even", { reference: { value: 0.5, text: "0.5" } });

  overLayers({ id: "entropy", title: "Certainty of the routers", file: "router_certainty",
    read: "Entropy of the router's probabilities over the largest possible, and the mean distance between the first and the second weight.",
    warn: "entropy near 0 (decided long ago: no exploration) or near 1 (the router cannot tell experts apart)." },
  [["entropy_ratio", "entropy over the largest", ""], ["margin", "margin of the first weight", ""]], "Share, weight", { range: [0, 1.02] });

  overLayers({ id: "z-loss", title: "Router z-loss", file: "router_z_loss",
    read: "Mean squared log-sum-exp of the logits (ST-MoE): how large the router's logits are.",
    warn: "growth from layer to layer or run to run: large logits round badly in half precision." },
  [["router_z_loss", "z-loss", "nats²"]], "nats²");

  overLayers({ id: "balance-loss", title: "Load-balancing loss", file: "balance_loss",
    read: "Experts × Σ share of first choices × mean probability (Switch Transformer): 1 when even.",
    warn: "values well above 1." },
  [["balance_loss", "balance loss", ""]], "1 = even", { reference: { value: 1, text: "even" } });

  overLayers({ id: "repeat", title: "Neighbours to the same expert", file: "repeat_rate",
    read: "How often the next token of a sample has the same first expert.",
    warn: "a high value with uneven loads is only the load; with even loads it says that experts follow topics or images." },
  [["repeat_rate", "repeat rate", ""]], "Share of neighbours", { range: [0, 1.02] });

  overLayers({ id: "active", title: "Used, underused and dead experts", file: "active_experts",
    read: "Experts that were chosen at all, those with less than half an even load, and those never chosen.",
    warn: "dead experts after more than some thousand tokens: their weights are carried for nothing." },
  [["active_experts", "used", "experts"], ["underused_experts", "under half an even load", "experts"], ["dead_experts", "dead", "experts"]], "Experts");
})();
