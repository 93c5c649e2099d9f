"use strict";
// A training log and a router's affinity matrix, with what is odd about them.
(() => {
  const { data, figures, parts, numbers, theme, make } = moetap;
  const log = data.all.training ?? null;
  const epochs = log?.epochs ?? [];
  const needs = "moetap report --training-log training_log.txt";
  /** Values with a gap between the parts of a log, so that a line does not join them. */
  const apart = (values) => values.flatMap((value, i) => (i > 0 && epochs[i].segment !== epochs[i - 1].segment ? [null, value] : [value]));
  const names = epochs.map((row) => (row.segment > 0 ? `${row.epoch} (part ${row.segment + 1})` : String(row.epoch)));

  const curve = (figure, key, yTitle, more = {}) => figures.add({
    part: "training", needs, ...figure,
    has: () => epochs.some((row) => numbers.isNumber(row[key])),
    draw: () => {
      const segments = data.distinct(epochs.map((row) => row.segment));
      const series = segments.map((segment) => ({ name: segments.length > 1 ? `part ${segment + 1} of the log` : yTitle, values: epochs.map((row) => (row.segment === segment ? row[key] ?? null : null)) }));
      return { ...parts.lines({ layers: names, series, xTitle: "Epoch", yTitle, ...more }),
        table: { columns: [{ name: "line" }, { name: "epoch" }, { name: "part" }, { name: key }], rows: epochs.map((row) => [row.line, row.epoch, row.segment + 1, row[key] ?? null]) } };
    },
  });

  figures.add({
    id: "training-diagnostics", part: "training", title: "Diagnostics", file: "training_diagnostics", needs, own: true,
    read: "What is odd about the log or the training, each with its line.",
    warn: "one expert near 100 %, experts near 0 %, an epoch that stands twice.",
    has: () => (log?.diagnostics ?? []).length > 0,
    draw: () => {
      const table = { columns: [{ name: "level", text: true }, { name: "file", text: true }, { name: "line" }, { name: "what", text: true }], rows: log.diagnostics.map((one) => [one.level, one.file, one.line, one.text]) };
      const words = { bad: "Problem", watch: "Look", info: "Fact" };
      return { element: make("ul", { class: "findings" }, log.diagnostics.map((one) => make("li", {}, make("span", { class: `level ${one.level}` }, words[one.level]),
        make("span", {}, `${one.file}${one.line ? `, line ${one.line}` : ""}: ${one.text}`)))), table };
    },
  });

  figures.add({
    id: "expert-utilization", part: "training", title: "Utilisation of the experts", file: "expert_utilization", needs,
    read: "A line an expert: its share of the tokens, epoch by epoch.",
    warn: "one line that climbs to 100 % (collapse), lines that lie on 0 %.",
    has: () => epochs.some((row) => row.utilization),
    draw: () => {
      const width = Math.max(...epochs.map((row) => row.utilization?.length ?? 0));
      const series = numbers.range(width).map((e) => ({ name: `expert ${e}`, unit: "%", values: epochs.map((row) => (numbers.isNumber(row.utilization?.[e]) ? row.utilization[e] * 100 : null)) }));
      const drawn = parts.lines({ layers: apart(names).map((name) => name ?? ""), series: series.map((one) => ({ ...one, values: apart(one.values) })), xTitle: "Epoch", yTitle: "% of tokens", height: 400 });
      drawn.traces.forEach((trace, e) => {
        trace.line.color = trace.marker.color = theme.color(e, width);
      });
      drawn.layout.showlegend = width <= 16;
      return { ...drawn, table: { columns: [{ name: "line" }, { name: "epoch" }, ...series.map((one) => ({ name: one.name, unit: "%" }))], rows: epochs.map((row, i) => [row.line, row.epoch, ...series.map((one) => one.values[i])]) } };
    },
  });

  curve({ id: "training-entropy", title: "Entropy in training", file: "router_entropy", read: "Entropy of the router's probabilities, in nats.", warn: "a fast fall in the first epochs: the router decides before experts differ." }, "entropy", "nats");
  curve({ id: "training-accuracy", title: "Routing accuracy", file: "routing_accuracy", read: "Share of samples that went to the expert of their class.", warn: "1 from the first epoch on (the label may leak), or no better than chance at the end." }, "routing_acc", "Share", { range: [0, 1.02] });
  curve({ id: "training-lr", title: "Learning rate", file: "learning_rate", read: "The learning rate of each epoch.", warn: "jumps that the other curves follow." }, "lr", "Learning rate");

  figures.add({
    id: "expert-sum", part: "training", title: "Utilisation over all epochs", file: "expert_utilization_by_sum", needs,
    read: "Mean share of each expert over all epochs of the log.", warn: "bars far from the dashed even share.",
    has: () => epochs.some((row) => row.utilization),
    draw: () => {
      const whole = epochs.filter((row) => row.utilization), width = Math.max(...whole.map((row) => row.utilization.length));
      const means = numbers.range(width).map((e) => {
        const values = whole.map((row) => row.utilization[e]).filter(numbers.isNumber);
        return values.length ? numbers.sum(values) / values.length : null;
      });
      return { height: 300, traces: [{ type: "bar", x: numbers.range(width), y: means, marker: { color: theme.variable("accent") }, customdata: means.map((value, e) => `expert ${e}<br><b>${numbers.percent(value)}</b> on average`), hovertemplate: "%{customdata}<extra></extra>" }],
        layout: { showlegend: false, xaxis: { ...parts.ticks(numbers.range(width)), title: { text: "Expert" } }, yaxis: { title: { text: "Mean share" }, rangemode: "tozero" }, shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1 / width, y1: 1 / width, line: { dash: "dash", width: 1, color: theme.variable("soft") } }] },
        table: { columns: [{ name: "expert" }, { name: "mean_share" }], rows: means.map((value, e) => [e, value]) } };
    },
  });

  const affinity = data.all.affinity ?? null;
  figures.add({
    id: "affinity", part: "training", title: "Affinity of classes and experts", file: "router_affinity_matrix_heatmap", needs: "moetap report --affinity router_affinity_matrix.csv",
    read: "Mean router probability of each expert, for the samples of each class.",
    warn: "one bright column (collapse); classes that share all their experts.",
    has: () => (affinity?.rows ?? []).length > 0,
    draw: () => {
      const width = Math.max(...affinity.rows.map((row) => row.length)), z = affinity.rows.map((row) => numbers.range(width).map((e) => row[e] ?? null));
      const classes = affinity.rows.map((_, i) => affinity.classes?.[i] ?? `class ${i}`), experts = numbers.range(width).map((e) => affinity.experts?.[e] ?? e);
      return { ...parts.heatmap({ z, x: experts, y: classes, xTitle: "Expert", yTitle: "", unit: "mean probability", low: 0, text: width <= 12 && classes.length <= 20 ? (value) => (value === null ? "" : value.toFixed(2)) : null, tip: (i, j, value) => `${moetap.plain(classes[i])}, expert ${moetap.plain(experts[j])}<br><b>${numbers.text(value)}</b>` }),
        table: { columns: [{ name: "class", text: true }, ...experts.map((name) => ({ name: String(name) }))], rows: z.map((row, i) => [classes[i], ...row]) } };
    },
  });
})();
