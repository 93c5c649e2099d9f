"use strict";
// Drawings that several families of figures share: a matrix with names and units, lines over layers.
(() => {
  const { make, theme, numbers, plain, selection } = moetap;

  /** True on a phone: bars stand above what they explain, and fewer names fit. */
  const isNarrow = () => innerWidth < 700;

  const longestOf = (names) => names.reduce((most, name) => Math.max(most, Math.min(14, String(name).length)), 1);

  /** How many names stand beside each other without turning: longer names, fewer of them. */
  const mostTicks = (names) => {
    const longest = Math.max(2, longestOf(names));
    return isNarrow() ? Math.max(6, Math.floor(30 / longest)) : Math.max(8, Math.min(32, Math.floor(78 / longest)));
  };

  /** Evenly spaced names on an axis with many places. */
  const ticks = (names, most = mostTicks(names)) => {
    const step = Math.max(1, Math.ceil(names.length / most));
    const places = numbers.range(names.length).filter((i) => i % step === 0);
    return { tickmode: "array", tickvals: places, ticktext: places.map((i) => plain(names[i], 14)), showgrid: false, zeroline: false };
  };

  /** The bar that explains a scale. Its title stands above it: beside it, it would not fit a low figure. */
  const bar = (unit) => ({
    ...(isNarrow() ? { orientation: "h", thickness: 7, y: 1, yanchor: "bottom", x: 0.5 } : { thickness: 12 }), outlinewidth: 0, len: 1, ypad: 4, tickfont: { size: 11, color: theme.variable("soft") },
    title: { text: unit, side: "top", font: { size: 12, color: theme.variable("soft") } },
  });

  /**
   * A heatmap. `z` [rows][columns]; `x`, `y` names of the places; `unit` for the bar; `center`: the scale diverges from
   * there; `hover` a template, %{customdata} is what `tip(row, column)` gives.
   */
  const heatmap = ({ z, x, y, xTitle, yTitle, unit, center, low, high, tip, square, text, maxHeight = 560 }) => {
    const flat = z.flat().filter(numbers.isNumber);
    const most = high ?? flat.reduce((a, b) => Math.max(a, b), -Infinity);
    const least = low ?? flat.reduce((a, b) => Math.min(a, b), Infinity);
    const span = center === undefined ? 0 : (high !== undefined ? high - center : Math.max(Math.abs(most - center), Math.abs(least - center))) || 1;
    const trace = {
      type: "heatmap", z, x: numbers.range(x.length), y: numbers.range(y.length), xgap: x.length > 60 ? 0 : 1, ygap: y.length > 40 ? 0 : 1,
      colorscale: theme.scale(center === undefined ? "amount" : "change"), hoverongaps: false,
      zmin: center === undefined ? (least === most ? Math.min(0, least) : least) : center - span,
      zmax: center === undefined ? (least === most ? Math.max(most, least + 1e-12) : most) : center + span,
      colorbar: bar(unit),
      customdata: z.map((row, i) => row.map((value, j) => tip(i, j, value))),
      hovertemplate: "%{customdata}<extra></extra>",
    };
    // Texts in cells are points of their own: each in the ink that its cell needs.
    const labels = { type: "scatter", mode: "text", x: [], y: [], text: [], textfont: { size: 11, color: [] }, hoverinfo: "skip", showlegend: false };
    // On a phone the cells of more than a few columns have no room for them.
    if (text && (!isNarrow() || x.length <= 5)) {
      z.forEach((row, i) => row.forEach((value, j) => {
        const label = value === null || value === undefined ? "" : text(value, i, j);
        if (label === "") return;
        labels.x.push(j);
        labels.y.push(i);
        labels.text.push(label);
        labels.textfont.color.push(theme.inkOn(center === undefined ? "amount" : "change", (value - trace.zmin) / (trace.zmax - trace.zmin)));
      }));
    }
    // A square matrix is as high as it is wide, within reason; rows of others are as high as they can be read.
    const row = square ? Math.max(4, Math.min(64, 420 / y.length)) : Math.max(9, Math.min(30, 420 / y.length));
    const highest = isNarrow() && square ? Math.max(150, innerWidth - 130) + 150 : square ? 620 : maxHeight;
    const height = Math.min(highest, Math.max(170, 110 + y.length * row) + (isNarrow() ? 60 : 0));
    // A square matrix stands in the middle of a wide page, with the bar of its scale beside it.
    const room = (document.getElementById("sections")?.clientWidth || 900) - 140;
    const part = square && !isNarrow() ? Math.min(1, (x.length * row + 30) / room) : 1;
    if (part < 1) Object.assign(trace.colorbar, { x: 0.5 + part / 2 + 0.01, xanchor: "left" });
    // On a phone long names stand upright: slanted, the last would be cut off.
    const isTurned = isNarrow() && x.length > 3 && x.some((name) => String(name).length > 6);
    return {
      traces: labels.text.length ? [trace, labels] : [trace], height: height + (isTurned ? 40 : 0),
      layout: {
        showlegend: false, margin: { r: 10, t: isNarrow() ? 70 : 24, ...(isNarrow() ? { b: 64 } : {}) },
        xaxis: { ...(part < 1 ? ticks(x, Math.max(6, Math.floor((x.length * row) / (8 + 7 * longestOf(x))))) : ticks(x)), title: { text: xTitle }, constrain: "domain", domain: [0.5 - part / 2, 0.5 + part / 2], range: [-0.5, x.length - 0.5], ...(isTurned ? { tickangle: -90 } : {}) },
        yaxis: { ...ticks(y, Math.max(4, Math.floor((height - 110) / 15))), title: { text: yTitle }, range: [y.length - 0.5, -0.5], ...(square ? { scaleanchor: "x", constrain: "domain" } : {}) },
      },
    };
  };

  /** Frames around the chosen row and column of a heatmap. */
  const frames = (row, column, numRows, numColumns) => {
    const line = { color: theme.variable("ink"), width: 2 };
    const shapes = [];
    if (row >= 0) shapes.push({ type: "rect", x0: -0.5, x1: numColumns - 0.5, y0: row - 0.5, y1: row + 0.5, line });
    if (column >= 0) shapes.push({ type: "rect", x0: column - 0.5, x1: column + 0.5, y0: -0.5, y1: numRows - 0.5, line });
    return shapes;
  };

  /** A value without neighbours: no line leads to it. */
  const isAlone = (values, i) => !numbers.isNumber(values[i - 1]) && !numbers.isNumber(values[i + 1]);

  /** A line a series over layers: series [{name, values, unit}]. Dashes and marks tell them apart without colour. */
  const lines = ({ layers, series, yTitle, height = 340, range, reference, xTitle = "Layer" }) => {
    const few = layers.length <= 40;
    const traces = series.map((one, i) => ({
      type: "scatter", mode: "lines+markers", name: plain(one.name, 48), x: numbers.range(layers.length), y: one.values,
      line: { color: theme.color(one.color ?? i), width: 2, dash: theme.dash(one.dash ?? i) },
      marker: { size: few ? 7 : one.values.map((_, j) => (isAlone(one.values, j) ? 7 : 0)), symbol: theme.symbol(one.dash ?? i), color: theme.color(one.color ?? i) },
      customdata: one.values.map((value, j) => `${plain(one.name, 60)}<br>${xTitle.toLowerCase()} ${plain(layers[j])}: <b>${numbers.text(value)}</b>${one.unit ? ` ${one.unit}` : ""}`),
      hovertemplate: "%{customdata}<extra></extra>", connectgaps: false,
    }));
    const shapes = [];
    const chosen = layers.indexOf(selection.state.layer);
    if (chosen >= 0) shapes.push({ type: "line", x0: chosen, x1: chosen, yref: "paper", y0: 0, y1: 1, line: { color: theme.variable("accent"), width: 1, dash: "dot" } });
    const annotations = [];
    if (reference) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: reference.value, y1: reference.value, line: { color: theme.variable("watch"), width: 1.5, dash: "dash" } });
      annotations.push({ xref: "paper", x: 1, xanchor: "right", y: reference.value, yanchor: "bottom", text: reference.text, showarrow: false, font: { size: 12, color: theme.variable("watch") } });
    }
    return {
      traces, height,
      layout: { shapes, annotations, xaxis: { ...ticks(layers), title: { text: xTitle } }, yaxis: { title: { text: yTitle }, ...(range ? { range } : { rangemode: "tozero" }) } },
    };
  };

  const kSankeyMargin = { l: 10, r: 10, t: 10, b: 14 };

  /** Sets y of nodes that have an x: in the order of their y, one under the other, so that none leaves the figure. */
  const stack = (nodes, links, height, pad) => {
    const flow = nodes.map((_, i) => Math.max(...["source", "target"].map((end) => numbers.sum(links.filter((link) => link[end] === i).map((link) => link.value)))));
    const columns = [...new Set(nodes.map((node) => node.x))].map((x) => numbers.range(nodes.length).filter((i) => nodes[i].x === x).sort((a, b) => nodes[a].y - nodes[b].y));
    const wholeOf = (column) => numbers.sum(column.map((i) => flow[i])), room = (column) => height - (column.length - 1) * pad;
    const scale = Math.min(...columns.map((column) => room(column) / wholeOf(column)));
    for (const column of columns) {
      let top = (room(column) - scale * wholeOf(column)) / 2;
      for (const i of column) {
        nodes[i].y = Math.min(0.999, Math.max(0.001, (top + (scale * flow[i]) / 2) / height));
        top += scale * flow[i] + pad;
      }
    }
  };

  /** Links of a Sankey; nodes [{name, color, x, y}], links [{source, target, value, tip, alpha}]. */
  const sankey = ({ nodes: every, links: flows, height: least = 520 }) => {
    if (!flows.length) return { element: make("p", { class: "note" }, "Nothing flows between what is shown here.") };
    // Nodes without a link have no place.
    const place = new Map([...new Set(flows.flatMap((link) => [link.source, link.target]))].sort((a, b) => a - b).map((old, i) => [old, i]));
    const nodes = [...place.keys()].map((old) => ({ ...every[old] }));
    const links = flows.map((link) => ({ ...link, source: place.get(link.source), target: place.get(link.target) }));
    const columns = new Map();
    for (const node of nodes) columns.set(node.x, (columns.get(node.x) ?? 0) + 1);
    const fullest = nodes.every((node) => node.x !== undefined) ? Math.max(...columns.values()) : 0;
    const height = Math.max(least, Math.min(2400, 40 + 15 * fullest)), pad = fullest ? Math.min(12, (0.4 * height) / fullest) : 12;
    if (fullest) stack(nodes, links, height - kSankeyMargin.t - kSankeyMargin.b, pad);
    const ink = theme.variable("ink");
    const most = links.reduce((all, link) => Math.max(all, link.value), 0) || 1;
    const faded = (color, alpha) => {
      const probe = color.startsWith("#") ? [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)).join(",") : null;
      return probe ? `rgba(${probe},${alpha})` : color.replace(")", ` / ${alpha})`);
    };
    return {
      height,
      traces: [{
        type: "sankey", arrangement: "snap",
        node: {
          label: nodes.map((node) => plain(node.name, 30)), color: nodes.map((node) => node.color), pad, thickness: 16,
          line: { width: 0 }, customdata: nodes.map((node) => node.tip ?? plain(node.name, 60)),
          hovertemplate: "%{customdata}: <b>%{value:.4g}</b><extra></extra>",
          ...(nodes.every((node) => node.x !== undefined) ? { x: nodes.map((node) => node.x), y: nodes.map((node) => node.y) } : {}),
        },
        link: {
          source: links.map((link) => link.source), target: links.map((link) => link.target), value: links.map((link) => link.value),
          color: links.map((link) => faded(nodes[link.source].color, (0.12 + 0.45 * link.value / most).toFixed(3))),
          customdata: links.map((link) => link.tip), hovertemplate: "%{customdata}<extra></extra>",
        },
        textfont: { color: ink, size: 12 },
      }],
      layout: { margin: kSankeyMargin },
    };
  };

  moetap.parts = { isNarrow, bar, ticks, heatmap, frames, lines, sankey };
})();
