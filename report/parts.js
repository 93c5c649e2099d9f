"use strict";
// Drawings that several families of figures share: a matrix with names and units, lines over layers.
(() => {
  const { theme, numbers, plain, selection } = moetap;

  /** True on a phone: bars stand above what they explain, and fewer names fit. */
  const isNarrow = () => innerWidth < 700;

  /** Evenly spaced names on an axis with many places. */
  const ticks = (names, most = isNarrow() ? Math.max(6, Math.floor(30 / Math.max(2, ...names.slice(0, 200).map((name) => String(name).length)))) : 32) => {
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
    const span = center === undefined ? 0 : Math.max(Math.abs(most - center), Math.abs(least - center)) || 1;
    const trace = {
      type: "heatmap", z, x: numbers.range(x.length), y: numbers.range(y.length), xgap: x.length > 90 ? 0 : 1, ygap: y.length > 70 ? 0 : 1,
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
    const row = square ? Math.max(4, Math.min(44, 420 / y.length)) : Math.max(9, Math.min(30, 420 / y.length));
    const highest = isNarrow() && square ? Math.max(150, innerWidth - 130) + 150 : square ? 620 : maxHeight;
    const height = Math.min(highest, Math.max(170, 110 + y.length * row) + (isNarrow() ? 60 : 0));
    return {
      traces: labels.text.length ? [trace, labels] : [trace], height,
      layout: {
        showlegend: false, margin: { r: 10, t: isNarrow() ? 70 : 24 },
        xaxis: { ...ticks(x), title: { text: xTitle }, constrain: "domain", range: [-0.5, x.length - 0.5] },
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

  /** A line a series over layers: series [{name, values, unit}]. Dashes and marks tell them apart without colour. */
  const lines = ({ layers, series, yTitle, height = 340, range, reference, xTitle = "Layer" }) => {
    const few = layers.length <= 40;
    const traces = series.map((one, i) => ({
      type: "scatter", mode: few ? "lines+markers" : "lines", name: plain(one.name, 48), x: numbers.range(layers.length), y: one.values,
      line: { color: theme.color(one.color ?? i), width: 2, dash: theme.dash(one.dash ?? i) },
      marker: { size: 7, symbol: theme.symbol(one.dash ?? i), color: theme.color(one.color ?? i) },
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

  /** Links of a Sankey; nodes [{name, color, x, y}], links [{source, target, value, tip, alpha}]. */
  const sankey = ({ nodes, links, height = 520 }) => {
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
          label: nodes.map((node) => plain(node.name, 30)), color: nodes.map((node) => node.color), pad: 12, thickness: 16,
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
      layout: { margin: { l: 10, r: 10, t: 10, b: 14 } },
    };
  };

  moetap.parts = { isNarrow, bar, ticks, heatmap, frames, lines, sankey };
})();
