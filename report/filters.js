"use strict";
// The bar that chooses component, layer and expert, the search, and the keys.
(() => {
  const { make, makeSelect, data, selection, numbers } = moetap;
  const bar = document.getElementById("filters");

  const step = (by) => {
    const ids = [null, ...data.layerIds(selection.state.component)];
    const place = ids.indexOf(selection.state.layer) + by;
    if (place >= 0 && place < ids.length) selection.set({ layer: ids[place] });
  };

  const draw = () => {
    const { component, layer, expert } = selection.state;
    const names = data.components();
    const focused = bar.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const keyed = (element, key) => {
      (element.querySelector("select") ?? element).dataset.key = key;
      return element;
    };
    const parts = [];
    if (names.length > 1) parts.push(keyed(makeSelect("Component", names.map((name) => [name, name]), component, (value) => selection.set({ component: value })), "component"));
    const ids = data.layerIds(component);
    if (ids.length) {
      parts.push(keyed(makeSelect("Layer", [["", "all"], ...ids.map((id) => [id, id])], layer ?? "", (value) => selection.set({ layer: value === "" ? null : value })), "layer"));
      const arrow = (text, label, by, key) => keyed(make("button", { type: "button", "aria-label": label, title: `${label} (${by < 0 ? "[" : "]"})`, onclick: () => step(by) }, text), key);
      parts.push(make("span", { class: "steps" }, arrow("‹", "Layer before", -1, "before"), arrow("›", "Next layer", 1, "next")));
    }
    const experts = data.numExperts(component);
    if (experts) {
      parts.push(keyed(makeSelect("Expert", [["", "all"], ...numbers.range(experts).map((e) => [e, e])], expert ?? "", (value) => selection.set({ expert: value === "" ? null : Number(value) })), "expert"));
    }
    if (layer !== null || expert !== null) {
      parts.push(keyed(make("button", { type: "button", class: "quiet", title: "Escape", onclick: () => selection.set({ layer: null, expert: null }) }, "Clear"), "clear"));
    }
    bar.replaceChildren(...parts);
    bar.hidden = parts.length === 0;
    if (focused) bar.querySelector(`[data-key="${focused}"]`)?.focus();
  };

  /** Hides the figures that the words do not fit; "layer 3" and "expert 5" choose. */
  const search = (text) => {
    const layer = /\blayer\s+(\S+)/i.exec(text)?.[1], expert = /\bexpert\s+(\d+)/i.exec(text)?.[1];
    if (layer !== undefined && data.layerIds(selection.state.component).includes(layer)) selection.set({ layer });
    if (expert !== undefined && Number(expert) < data.numExperts(selection.state.component)) selection.set({ expert: Number(expert) });
    const words = text.toLowerCase().replace(/\b(layer|expert)\s+\S+/g, "").split(/\s+/).filter(Boolean);
    let found = 0;
    for (const card of document.querySelectorAll("#sections article.card")) {
      const content = `${card.querySelector("h3")?.textContent} ${card.querySelector(".read")?.textContent} ${card.closest("section")?.querySelector("h2")?.textContent ?? ""}`.toLowerCase();
      const fits = words.every((word) => content.includes(word));
      card.hidden = !fits;
      found += fits ? 1 : 0;
    }
    for (const part of document.querySelectorAll("#sections section.part")) {
      const cards = [...part.querySelectorAll("article.card")];
      part.hidden = words.length > 0 && cards.every((card) => card.hidden);
    }
    if (text) moetap.announce(`${numbers.count(found, "figure")} found`);
  };

  const input = document.getElementById("search");
  input.addEventListener("input", () => search(input.value));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.closest?.("input, select, textarea");
    if (event.key === "Escape") {
      if (event.target === input) {
        input.value = "";
        search("");
      } else {
        selection.set({ layer: null, expert: null });
      }
    } else if (!isTyping && event.key === "/") {
      event.preventDefault();
      input.focus();
    } else if (!isTyping && (event.key === "[" || event.key === "]")) {
      step(event.key === "[" ? -1 : 1);
    }
  });

  moetap.filters = { draw };
})();
