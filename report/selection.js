"use strict";
// What the reader looks at: component, layer, expert. It stands in the address (#layer=12&expert=3&figure=usage), so a
// link leads back to it.
(() => {
  const { data } = moetap;
  const listeners = [];
  const state = { component: data.components()[0] ?? "", layer: null, expert: null, figure: null };

  const read = () => {
    const found = new URLSearchParams(location.hash.slice(1));
    const component = found.get("component");
    if (component !== null && data.components().includes(component)) state.component = component;
    const layer = found.get("layer");
    state.layer = layer !== null && data.layerIds(state.component).includes(layer) ? layer : null;
    const expert = found.get("expert");
    state.expert = expert !== null && /^\d+$/.test(expert) && Number(expert) < data.numExperts(state.component)
      ? Number(expert) : null;
    state.figure = found.get("figure");
  };

  const hash = (changes = {}) => {
    const next = { ...state, ...changes };
    const parts = new URLSearchParams();
    if (next.component && data.components().length > 1) parts.set("component", next.component);
    if (next.layer !== null) parts.set("layer", next.layer);
    if (next.expert !== null) parts.set("expert", next.expert);
    if (next.figure) parts.set("figure", next.figure);
    return `#${parts}`;
  };

  const tell = (changed) => {
    for (const listener of listeners) listener(changed);
  };

  const set = (changes) => {
    const before = { ...state };
    Object.assign(state, changes);
    if ("component" in changes && changes.component !== before.component) {
      if (!data.layerIds(state.component).includes(state.layer)) state.layer = null;
      if (state.expert !== null && state.expert >= data.numExperts(state.component)) state.expert = null;
    }
    const changed = Object.keys(state).filter((key) => state[key] !== before[key]);
    if (!changed.length) return;
    history.replaceState(null, "", hash());
    const layer = state.layer === null ? "all layers" : `layer ${state.layer}`;
    if (changed.some((key) => key !== "figure")) {
      moetap.announce(`Shown: ${layer}, ${state.expert === null ? "all experts" : `expert ${state.expert}`}`);
    }
    tell(changed);
  };

  globalThis.addEventListener("hashchange", () => {
    const before = { ...state };
    read();
    const changed = Object.keys(state).filter((key) => state[key] !== before[key]);
    if (state.figure && !changed.includes("figure")) changed.push("figure");
    tell(changed);
  });
  read();

  /** The chosen layer if `ids` has it, else the first: for figures that show one layer. */
  const oneLayer = (ids) => (state.layer !== null && ids.includes(state.layer) ? state.layer : ids[0]);

  moetap.selection = { state, set, hash, oneLayer, onChange: (listener) => listeners.push(listener) };
})();
