"use strict";
// A figure on the page: its name, how to read it, the drawing, and its data. A figure says what it shows; this file
// draws it when it comes into view, again when the selection or the theme changes, and gives it as PNG, SVG or CSV.
(() => {
  const { make, makeSelect, numbers, theme, selection, data } = moetap;
  const figures = [];

  /**
   * Makes a figure known. {id, part, title, read, warn, needs, file, has(component), draw(context)}:
   * `read` is one line on how to read it, `warn` its warning signs, `needs` what would fill it, `file` its name under
   * --split; `studies` whose sentences lead to it; `runs`: it shows both of two runs; `ofRun`: the run's numbers, though a
   * study has them too. `draw` returns {traces, layout, height, table: {columns, rows}, note, where, onClick(point)} for Plotly, or
   * {element, table} for a drawing of its own; `shown(card)` is called after each drawing. `controls(component)` lists {key, label, options: [[value, text]]}.
   */
  const add = (figure) => figures.push(figure);

  const layoutOfTheme = (height) => {
    const ink = theme.variable("ink"), soft = theme.variable("soft"), grid = theme.variable("grid");
    const axis = {
      gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickcolor: grid, automargin: true,
      tickfont: { color: soft, size: 12 }, title: { font: { color: soft, size: 13 }, standoff: 10 },
    };
    return {
      height, autosize: true, margin: { l: 60, r: 20, t: 14, b: 48 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: theme.variable("sans"), size: 13, color: ink },
      // On a phone Plotly has no room to push the title below the names of the places: it stands farther off from the start.
      xaxis: moetap.parts.isNarrow() ? { ...axis, title: { ...axis.title, standoff: 24 } } : axis, yaxis: axis, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12, color: ink } },
      hoverlabel: { font: { family: theme.variable("sans"), size: 13 }, align: "left", namelength: -1 },
      hovermode: "closest", showlegend: true,
      colorway: numbers.range(8).map((i) => theme.color(i)),
    };
  };

  /** Fills a layout in: what the figure says wins, level by level. */
  const merged = (base, over) => {
    if (over === undefined) return base;
    if (typeof over !== "object" || over === null || Array.isArray(over)) return over;
    const all = { ...(typeof base === "object" && base !== null ? base : {}) };
    for (const [key, value] of Object.entries(over)) {
      // Further axes (xaxis2, ...) look like the first.
      const model = /^[xy]axis\d+$/.test(key) ? merged(base?.[key.slice(0, 5)], {}) : all[key];
      all[key] = merged(model, value);
    }
    return all;
  };

  const config = { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: "reset" };

  /** No line ends between a number and its percent sign. */
  const unbroken = (text) => text.replace(/(\d) %/g, "$1\u00a0%");

  class Card {
    constructor(figure) {
      this.figure = figure;
      this.chosen = {};
      this.drawn = false;
      this.isVisible = false;
      this.where = make("span", { class: "where" });
      this.controls = make("div", { class: "controls" });
      this.plot = make("div", { class: "plot", role: "img", "aria-label": `${figure.title}. ${figure.read}` });
      this.note = make("div");
      this.data = make("div", { hidden: true });
      this.element = make("article", { class: "card", id: `figure-${figure.id}`, "aria-labelledby": `title-${figure.id}` },
        make("header", {}, make("h3", { id: `title-${figure.id}` }, figure.title), this.where),
        make("p", { class: "read" }, unbroken(figure.read), figure.warn ? [" ", make("b", {}, "Warning signs: "), unbroken(figure.warn)] : []),
        this.controls, this.plot, this.note, this.tools(), this.data);
    }

    tools() {
      const button = (text, label, action) => make("button", { type: "button", class: "quiet", "aria-label": label, onclick: action }, text);
      const title = this.figure.title;
      this.table = make("button", { type: "button", class: "quiet", "aria-expanded": "false", "aria-label": `Data of ${title} as a table`,
        onclick: () => this.toggleTable() }, "Table");
      this.pictures = this.figure.own ? [] : ["png", "svg"].map((format) => button(format.toUpperCase(),
        `Download ${title} as ${format.toUpperCase()}`, () => this.picture(format)));
      return make("div", { class: "tools" }, this.table,
        button("CSV", `Download the data of ${title} as CSV`, () => this.csv()), this.pictures, make("span", { class: "gap" }),
        make("a", { class: "note", href: selection.hash({ figure: this.figure.id }), onclick: (event) => {
          event.preventDefault();
          selection.set({ figure: this.figure.id });
        }, "aria-label": `Link to ${title}` }, "Link"));
    }

    /** Draws now if in view, else once it is. */
    refresh() {
      this.drawn = false;
      if (this.isVisible) this.draw();
    }

    show() {
      this.isVisible = true;
      if (!this.drawn) this.draw();
    }

    draw() {
      this.drawn = true;
      const { component } = selection.state;
      this.drawControls(component);
      const result = this.figure.draw({ component, chosen: this.chosen, state: selection.state });
      this.result = result;
      this.where.textContent = moetap.short([result.where, this.ofRun()].filter(Boolean).join(", "), 90);
      this.note.replaceChildren(...[result.note ?? [], this.notices(component)].flat().filter(Boolean).map((text) => make("p", { class: "note" }, text)));
      if (result.element) {
        this.leavePlotly();
        this.plot.removeAttribute("role");
        this.plot.removeAttribute("aria-label");
        this.plot.replaceChildren(result.element);
      } else {
        if (!this.plot.classList.contains("js-plotly-plot")) this.plot.replaceChildren();
        const layout = merged(layoutOfTheme(result.height ?? 360), result.layout ?? {});
        this.plot.style.minHeight = `${layout.height}px`;
        // One series needs no legend.
        if (result.layout?.showlegend === undefined) layout.showlegend = result.traces.filter((trace) => trace.name).length > 1;
        const isFirst = !this.plot.classList.contains("js-plotly-plot");
        Plotly.react(this.plot, result.traces, layout, config);
        this.figure.shown?.(this);
        if (isFirst) this.plot.on("plotly_click", (event) => this.result.onClick?.(event.points[0]));
      }
      if (!this.data.hidden) this.drawTable();
    }

    /** A figure that has drawn with Plotly and now has an element of its own. */
    leavePlotly() {
      if (!this.plot.classList.contains("js-plotly-plot")) return;
      Plotly.purge(this.plot);
      this.plot.classList.remove("js-plotly-plot");
      this.plot.style.minHeight = "";
    }

    /** Of two runs most figures show the first: which one is said. */
    ofRun() {
      const { figure, chosen } = this;
      const showsBoth = figure.runs || (figure.studies && !figure.ofRun) || chosen.run !== undefined || ["change", "training"].includes(figure.part);
      return data.runs.length > 1 && !showsBoth ? `run ${data.runName(0)}` : null;
    }

    /** What the figure's studies say about how they were made. */
    notices(component) {
      const lines = (this.figure.studies ?? []).flatMap((name) => data.studies(component)[name]?.notices ?? []);
      return data.distinct(lines).map(moetap.numbers.sentence);
    }

    drawControls(component) {
      const wanted = this.figure.controls?.(component, this.chosen) ?? [];
      this.controls.hidden = wanted.length === 0;
      // Rebuilt only when the options change, so that the keyboard's focus stays.
      const key = JSON.stringify(wanted);
      for (const control of wanted) {
        if (!control.options.some(([value]) => String(value) === String(this.chosen[control.key]))) {
          this.chosen[control.key] = String(control.options[0][0]);
        }
      }
      if (key === this.controlsKey) return;
      this.controlsKey = key;
      this.controls.replaceChildren(...wanted.map((control) =>
        makeSelect(control.label, control.options, this.chosen[control.key], (value) => {
          this.chosen[control.key] = value;
          this.refresh();
        })));
    }

    toggleTable() {
      this.data.hidden = !this.data.hidden;
      this.table.setAttribute("aria-expanded", String(!this.data.hidden));
      if (!this.data.hidden) this.drawTable();
    }

    drawTable() {
      this.data.replaceChildren(moetap.tables.view(this.result.table, { label: `Data of ${this.figure.title}` }));
    }

    fileName(ending) {
      const layer = this.result.layer === undefined ? "" : `_layer${this.result.layer}`;
      return `${(this.figure.file ?? this.figure.id).replace(/[^\w-]+/g, "_")}${layer.replace(/[^\w-]+/g, "_")}.${ending}`;
    }

    csv() {
      if (!this.drawn) this.draw();
      moetap.download(this.fileName("csv"), moetap.tables.csv(this.result.table), "text/csv");
    }

    async picture(format) {
      if (!this.drawn) this.draw();
      const size = { width: Math.max(900, this.plot.clientWidth), height: Math.max(420, this.plot.clientHeight) };
      // A page's ground is see-through: a picture gets a ground of its own.
      const copy = { data: this.plot.data, layout: { ...this.plot.layout, paper_bgcolor: theme.variable("card"), title: { text: this.figure.title, font: { size: 16 } },
        margin: { ...this.plot.layout.margin, t: 70 } } };
      moetap.download(this.fileName(format), await Plotly.toImage(copy, { format, scale: format === "png" ? 2 : 1, ...size }));
    }
  }

  /** Rows of objects as a table for the reader. */
  const tableOf = (rows, columns) => ({
    columns: columns.map((column) => (typeof column === "string" ? { name: column } : column)),
    rows: rows.map((row) => columns.map((column) => row[column.name ?? column])),
  });

  moetap.figures = { all: figures, add, Card, tableOf, data };
})();
