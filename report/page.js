"use strict";
// Puts the page together: the overview, a part a family of figures, the list of what has no data.
(() => {
  const { make, data, figures, selection, theme } = moetap;
  const parts = [
    ["overview", "Overview", ""],
    ["usage", "Experts by layer", "Who is used, and how strongly."],
    ["balance", "Balance and certainty", "How even the loads are and how sure the routers, layer by layer."],
    ["pairs", "Pairs and paths", "Which experts work on the same tokens, and which follow each other."],
    ["tokens", "Tokens", "What each token of a sample was sent to."],
    ["attention", "Attention", "What layers, heads and the tokens of each expert attend to."],
    ["evolution", "Over the layers", "How roles and their importance change with depth."],
    ["deployment", "Serving", "What routing means for caches, placement and prefetching."],
    ["meaning", "What experts are for", "Tokens, categories and groups that experts prefer."],
    ["change", "Two runs", "What changed from the first run to the second."],
    ["training", "Training", "The course of training, and what its log says that it should not."],
  ];
  const cards = [];
  const sections = document.getElementById("sections");
  const contents = document.getElementById("contents");
  const overview = make("section", { class: "part", id: "part-overview", "aria-label": "Overview" });

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const card = cards.find((one) => one.element === entry.target);
      if (entry.isIntersecting) card.show();
      else card.isVisible = false;
    }
  }, { rootMargin: "300px" });

  /** What has no data, by what would fill it. */
  const absentPart = (absent) => {
    const byNeed = new Map();
    for (const figure of absent) {
      const other = data.components().find((name) => figure.has(name));
      const needs = other === undefined ? figure.needs : `another component has it: choose ${moetap.short(other, 60)} above`;
      byNeed.set(needs, [...(byNeed.get(needs) ?? []), figure.title]);
    }
    return make("section", { class: "part", id: "part-absent", "aria-labelledby": "heading-absent" }, make("h2", { id: "heading-absent" }, "Not in this report"),
      make("p", { class: "lead" }, "These figures have no data here. Each line says what fills them."),
      make("ul", { class: "absent" }, [...byNeed].map(([needs, titles]) => make("li", {}, make("b", {}, titles.join(" · ")), make("span", {}, needs)))));
  };

  const build = () => {
    observer.disconnect();
    for (const card of cards) if (card.plot.classList.contains("js-plotly-plot")) Plotly.purge(card.plot);
    cards.length = 0;
    const { component } = selection.state;
    // A page of --split shows one figure only.
    const wanted = figures.all.filter((figure) => !data.all.only || figure.id === data.all.only);
    const present = wanted.filter((figure) => figure.has(component));
    const absent = wanted.filter((figure) => !figure.has(component));
    const shown = data.all.only ? [make("h1", { id: "title" }, data.all.title)] : [overview];
    const links = data.all.only ? [] : [["overview", "Overview", null]];
    for (const [id, title, lead] of parts.slice(1)) {
      const own = present.filter((figure) => figure.part === id).map((figure) => new figures.Card(figure));
      if (!own.length) continue;
      cards.push(...own);
      links.push([id, title, own.length]);
      shown.push(make("section", { class: "part", id: `part-${id}`, "aria-labelledby": `heading-${id}` },
        make("h2", { id: `heading-${id}` }, title), make("p", { class: "lead" }, lead), own.map((card) => card.element)));
    }
    if (absent.length) {
      shown.push(absentPart(absent));
      links.push(["absent", "Not in this report", absent.length]);
    }
    sections.replaceChildren(...shown);
    contents.replaceChildren(make("ol", {}, links.map(([id, title, count]) => make("li", {}, make("a", { href: `#part-${id}`, onclick: (event) => {
      event.preventDefault();
      document.getElementById(`part-${id}`).scrollIntoView();
      for (const link of contents.querySelectorAll("a")) link.setAttribute("aria-current", String(link === event.currentTarget));
    } }, title, count === null ? null : make("span", { class: "count" }, String(count)))))));
    if (!data.all.only) moetap.overview.draw(overview);
    moetap.filters.draw();
    for (const card of cards) observer.observe(card.element);
  };

  const goTo = (id) => {
    if (!id) return;
    const element = document.getElementById(`figure-${id}`) ?? document.getElementById(id === "overview" ? "part-overview" : id);
    if (!element) return;
    for (const other of document.querySelectorAll(".card.linked")) other.classList.remove("linked");
    if (element.classList.contains("card")) element.classList.add("linked");
    element.scrollIntoView({ block: "start" });
    moetap.announce(`${element.querySelector("h3")?.textContent ?? "Overview"} is in view`);
  };

  selection.onChange((changed) => {
    if (changed.includes("component")) {
      build();
    } else if (changed.some((key) => key !== "figure")) {
      moetap.filters.draw();
      if (!data.all.only) moetap.overview.draw(overview);
      for (const card of cards) card.refresh();
    }
    if (changed.includes("figure")) goTo(selection.state.figure);
  });
  theme.onChange(() => {
    if (!data.all.only) moetap.overview.draw(overview);
    for (const card of cards) card.refresh();
  });

  document.getElementById("run-names").textContent = data.runs.length ? data.runs.map((run) => run.label).join(" and ") : data.all.title;
  build();
  goTo(selection.state.figure);
  document.documentElement.dataset.ready = "true";
  moetap.page = { cards };
})();
