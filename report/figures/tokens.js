"use strict";
// Look at tokens: a sample's tokens coloured by expert, layer by layer, and the image with its experts over its patches.
(() => {
  const { data, figures, parts, numbers, selection, theme, make, makeSelect } = moetap;
  const kTicksMs = 900;
  const all = data.all.tokens ?? { components: {} };
  const of = (component) => all.components?.[component] ?? null;
  const vocabulary = all.vocabulary ?? {};

  /** A token as text: from the vocabulary, else its id. */
  const tokenText = (id) => {
    if (id === null || id === undefined || id < 0) return null;
    const text = vocabulary[id];
    return text === undefined ? `id ${id}` : text;
  };
  moetap.tokenText = tokenText;

  /** Blanks and line breaks are seen in a token. */
  const visible = (text) => (text === "" ? "∅" : text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ /, "·"));

  const slotsOf = (sample, layer, t, k) => numbers.range(k).map((slot) => ({ expert: sample.ids[layer][t * k + slot], weight: sample.weights?.[layer]?.[t * k + slot] ?? null }))
    .filter((slot) => slot.expert !== undefined && slot.expert >= 0).sort((a, b) => (b.weight ?? 0) - (a.weight ?? 0));

  const nameOf = (sample) => {
    const words = [`sample ${sample.sample}`];
    if (sample.category) words.push(moetap.short(sample.category, 24));
    return words.join(" · ");
  };

  // One view at a time keeps its sample and layer over redraws.
  const view = { sample: 0, layer: 0, timer: null, tip: null };

  const hideTip = () => {
    view.tip?.remove();
    view.tip = null;
  };
  const showTip = (target, text) => {
    hideTip();
    view.tip = make("div", { class: "tip", role: "tooltip" }, text);
    document.body.append(view.tip);
    const box = target.getBoundingClientRect(), own = view.tip.getBoundingClientRect();
    view.tip.style.left = `${Math.max(8, Math.min(innerWidth - own.width - 8, box.left))}px`;
    view.tip.style.top = `${box.bottom + own.height + 12 > innerHeight ? box.top - own.height - 6 : box.bottom + 6}px`;
  };

  const describe = (sample, tokens, layer, t) => {
    const id = sample.token_id?.[t];
    const text = tokenText(id);
    const head = `${text === null ? "token" : JSON.stringify(text)}${id >= 0 ? ` (id ${id})` : ""}, position ${sample.position[t]}${sample.phase?.[t] === 1 ? ", generated" : ""}`;
    const slots = slotsOf(sample, layer, t, tokens.top_k[layer]);
    const lines = slots.length ? slots.map((slot) => `expert ${slot.expert}${slot.weight === null ? "" : `: ${numbers.text(slot.weight)}`}`) : ["no expert: the layer did not see it"];
    const received = sample.received?.[layer]?.[t];
    return [head, `layer ${tokens.layers[layer]}`, ...lines, ...(numbers.isNumber(received) ? [`attention received: ${numbers.text(received)}`] : [])].join("\n");
  };

  const fill = (hex, strength) => `color-mix(in srgb, ${hex} ${Math.round(18 + 46 * strength)}%, ${theme.variable("card")})`;

  const withTip = (element, text) => {
    for (const event of ["mouseenter", "focus"]) element.addEventListener(event, () => showTip(element, text()));
    for (const event of ["mouseleave", "blur"]) element.addEventListener(event, hideTip);
    element.addEventListener("keydown", (event) => {
      const next = { ArrowRight: element.nextElementSibling, ArrowLeft: element.previousElementSibling }[event.key];
      if (next) {
        event.preventDefault();
        next.focus();
      }
    });
    return element;
  };

  const experts = (component) => data.numExperts(component) || 1 + Math.max(...of(component).samples.flatMap((sample) => sample.ids.flatMap((ids) => ids.reduce((a, b) => Math.max(a, b), -1))));

  const tokenList = (component, tokens, sample, layer) => {
    const count = experts(component), chosen = selection.state.expert;
    return make("div", { class: "tokens", role: "group", "aria-label": `Tokens of ${nameOf(sample)} in layer ${tokens.layers[layer]}` }, sample.position.map((_, t) => {
      const slots = slotsOf(sample, layer, t, tokens.top_k[layer]), first = slots[0];
      const label = tokenText(sample.token_id?.[t]) ?? `#${sample.position[t]}`;
      const element = make("button", { type: "button", class: "token", "data-position": sample.position[t], tabindex: t === 0 ? 0 : -1, "aria-label": `${moetap.short(label, 60)}: ${first ? `expert ${first.expert}` : "no expert"}` }, visible(moetap.short(label, 40)));
      if (!first) element.classList.add("unseen");
      else {
        const shown = chosen !== null && slots.find((slot) => slot.expert === chosen);
        const slot = shown || first, color = theme.color(slot.expert, count);
        element.dataset.expert = slot.expert;
        element.style.background = fill(color, slot.weight === null ? 1 : Math.min(1, slot.weight / Math.max(first.weight, 1e-9)));
        element.style.borderColor = color;
        element.classList.toggle("dim", chosen !== null && !shown);
      }
      if (sample.phase?.[t] === 1) element.classList.add("generated");
      return withTip(element, () => describe(sample, tokens, layer, t));
    }));
  };

  const legend = (component, sample, layer, tokens) => {
    const count = experts(component), load = new Map();
    sample.position.forEach((_, t) => slotsOf(sample, layer, t, tokens.top_k[layer]).forEach((slot) => load.set(slot.expert, (load.get(slot.expert) ?? 0) + 1)));
    return make("div", { class: "legend", role: "group", "aria-label": "Experts of this sample" }, [...load].sort((a, b) => b[1] - a[1]).slice(0, 48).map(([expert, n]) => {
      const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = theme.color(expert, count);
      return make("button", { type: "button", "data-expert": expert, "aria-pressed": String(selection.state.expert === expert), onclick: () => selection.set({ expert: selection.state.expert === expert ? null : expert }) }, swatch, `Expert ${expert} · ${n}`);
    }));
  };

  const image = (component, tokens, sample, layer) => {
    const { image: picture } = sample, count = experts(component);
    const overlay = make("div", { class: "patches", role: "group", "aria-label": `Experts over the patches of the image, layer ${tokens.layers[layer]}` });
    overlay.style.gridTemplateColumns = `repeat(${picture.columns}, 1fr)`;
    overlay.style.gridTemplateRows = `repeat(${picture.rows}, 1fr)`;
    const own = picture.tokens, most = Math.max(1e-12, ...own.map((t) => sample.received?.[layer]?.[t] ?? 0));
    for (const t of own) {
      const slots = slotsOf(sample, layer, t, tokens.top_k[layer]);
      const slot = (selection.state.expert !== null && slots.find((one) => one.expert === selection.state.expert)) || slots[0];
      const cell = make("button", { type: "button", "aria-label": `Patch at position ${sample.position[t]}: ${slot ? `expert ${slot.expert}` : "no expert"}` }, slot && picture.columns <= 24 ? String(slot.expert) : "");
      if (slot) {
        const strength = view.over === "attention" ? (sample.received?.[layer]?.[t] ?? 0) / most : slot.weight ?? 0.6;
        cell.style.background = `color-mix(in srgb, ${view.over === "attention" ? theme.color(1) : theme.color(slot.expert, count)} ${Math.round(100 * Math.min(0.78, 0.15 + 0.63 * strength))}%, transparent)`;
        if (view.over === "attention") cell.textContent = "";
      }
      overlay.append(withTip(cell, () => describe(sample, tokens, layer, t)));
    }
    const plainImage = make("div", { class: "patched" }, make("img", { src: picture.src, alt: `Image of ${nameOf(sample)}` }));
    return make("div", { class: "image-row" }, make("figure", {}, make("div", { class: "patched" }, make("img", { src: picture.src, alt: "" }), overlay), make("figcaption", { class: "note" }, view.over === "attention" ? "attention received" : "experts over patches")),
      make("figure", {}, plainImage, make("figcaption", { class: "note" }, `the image, ${picture.rows} × ${picture.columns} tokens`)));
  };

  const draw = ({ component }) => {
    const tokens = of(component);
    view.sample = Math.min(view.sample, tokens.samples.length - 1);
    if (selection.state.layer !== null && tokens.layers.includes(selection.state.layer) && view.followed !== selection.state.layer) view.layer = tokens.layers.indexOf(selection.state.layer);
    view.followed = selection.state.layer;
    view.layer = Math.min(view.layer, tokens.layers.length - 1);
    const place = make("div"), slider = make("input", { type: "range", min: 0, max: tokens.layers.length - 1, step: 1, "aria-label": "Layer", id: "token-layer" });
    const play = make("button", { type: "button", id: "token-play", "aria-pressed": "false" }, "▶ Play");
    const name = make("output", {}, "");
    const redraw = () => {
      hideTip();
      const sample = tokens.samples[view.sample];
      slider.value = String(view.layer);
      slider.setAttribute("aria-valuetext", `layer ${tokens.layers[view.layer]}`);
      name.textContent = `layer ${moetap.short(tokens.layers[view.layer], 20)}`;
      const said = [sample.question && `question: ${sample.question}`, sample.target && `target: ${sample.target}`, sample.answer && `answer: ${sample.answer}`].filter(Boolean).join(" · ");
      place.replaceChildren(...[said ? make("p", { class: "note" }, moetap.short(said, 400)) : null, sample.image ? image(component, tokens, sample, view.layer) : null, legend(component, sample, view.layer, tokens), tokenList(component, tokens, sample, view.layer),
        sample.cut ? make("p", { class: "note" }, sample.cut) : null].filter(Boolean));
    };
    slider.addEventListener("input", () => {
      view.layer = Number(slider.value);
      redraw();
    });
    const stop = () => {
      clearInterval(view.timer);
      view.timer = null;
      play.textContent = "▶ Play";
      play.setAttribute("aria-pressed", "false");
    };
    stop();
    play.addEventListener("click", () => {
      if (view.timer) return stop();
      play.textContent = "❚❚ Stop";
      play.setAttribute("aria-pressed", "true");
      view.timer = setInterval(() => {
        view.layer = (view.layer + 1) % tokens.layers.length;
        if (place.isConnected) redraw();
        else stop();
      }, kTicksMs);
    });
    const samples = makeSelect("Sample", tokens.samples.map((sample, i) => [i, nameOf(sample)]), view.sample, (value) => {
      view.sample = Number(value);
      redraw();
    });
    const hasReceived = tokens.samples.some((sample) => sample.image && sample.received);
    const over = hasReceived ? makeSelect("Over the image", [["experts", "experts"], ["attention", "attention received"]], view.over ?? "experts", (value) => {
      view.over = value;
      redraw();
    }) : null;
    redraw();
    const rows = [];
    const sample = tokens.samples[view.sample];
    tokens.layers.forEach((layer, l) => sample.position.forEach((position, t) => {
      slotsOf(sample, l, t, tokens.top_k[l]).forEach((slot, rank) => rows.push([sample.sample, position, sample.token_id?.[t] ?? null, layer, rank, slot.expert, slot.weight]));
    }));
    return {
      element: make("div", {}, make("div", { class: "controls" }, samples, over, make("label", {}, "Layer", slider), name, play), place), note: tokens.note ?? null,
      table: { columns: [{ name: "sample" }, { name: "position" }, { name: "token_id" }, { name: "layer", text: true }, { name: "slot" }, { name: "expert" }, { name: "weight" }], rows },
    };
  };

  figures.add({
    id: "tokens", part: "tokens", title: "Look at tokens", file: "tokens", own: true,
    read: "Each token in the colour of its expert with the largest weight; stronger is more certain. Hover or focus a token for all its experts and weights; arrow keys go on. Choose an expert to see its tokens only.",
    warn: "the same colour everywhere; neighbours that change expert at every token.",
    needs: "a run with a dump: moetap run --dump ids (topk for weights)",
    has: (component) => (of(component)?.samples.length ?? 0) > 0,
    draw,
  });

  figures.add({
    id: "token-flow", part: "tokens", title: "From tokens to experts", file: "token_experts",
    read: "Gate weight that flows from each token of the sample to its experts.",
    warn: "an expert that takes something of every token; tokens of one kind split over all.",
    needs: "a run with a dump that has weights: moetap run --dump topk",
    has: (component) => (of(component)?.samples ?? []).some((sample) => sample.weights),
    controls: (component) => [{ key: "sample", label: "Sample", options: of(component).samples.map((sample, i) => [i, nameOf(sample)]) }],
    draw: ({ component, chosen }) => {
      const tokens = of(component), sample = tokens.samples[Number(chosen.sample)], layer = Math.max(0, tokens.layers.indexOf(selection.oneLayer(tokens.layers)));
      const count = Math.min(sample.position.length, 48), width = experts(component), nodes = [], links = [], index = new Map();
      const node = (key, made) => {
        if (!index.has(key)) {
          index.set(key, nodes.length);
          nodes.push(made);
        }
        return index.get(key);
      };
      for (let t = 0; t < count; ++t) {
        for (const slot of slotsOf(sample, layer, t, tokens.top_k[layer])) {
          if (!(slot.weight > 0)) continue;
          const text = tokenText(sample.token_id?.[t]) ?? "token";
          const source = node(`t${t}`, { name: `${moetap.short(visible(text), 14)} ${sample.position[t] + 1}`, color: theme.variable("soft") });
          const target = node(`e${slot.expert}`, { name: `Expert ${slot.expert}`, color: theme.color(slot.expert, width) });
          links.push({ source, target, value: slot.weight, tip: `${moetap.plain(text)} at ${sample.position[t]} → expert ${slot.expert}<br><b>${numbers.text(slot.weight)}</b> gate weight` });
        }
      }
      // In the order of the text on the left, of the numbers on the right.
      for (const [key, place] of index) Object.assign(nodes[place], { x: key[0] === "t" ? 0.001 : 0.999, y: Number(key.slice(1)) });
      return { ...parts.sankey({ nodes, links, height: Math.max(360, 60 + count * 17) }), where: `${nameOf(sample)}, layer ${tokens.layers[layer]}`, layer: tokens.layers[layer],
        note: [count < sample.position.length ? `The first ${count} of ${sample.position.length} tokens are drawn.` : null, tokens.note ?? null],
        table: { columns: [{ name: "from", text: true }, { name: "to", text: true }, { name: "gate_weight" }], rows: links.map((link) => [nodes[link.source].name, nodes[link.target].name, link.value]) } };
    },
  });

  // Sankeys of one sample, as `moetap analyze` writes them: stage, source, target, value.
  for (const [table, title, read] of [
    ["sankey_token_expert", "Token, expert, attention received", "Gate weight from each token to its experts, then weighted by the attention that the tokens receive: wider on the right means that the expert's tokens are attended to more than average."],
    ["sankey_expert_region", "Position, expert, attention region", "Gate weight from positions to the ten heaviest experts, and on to the fifths of the sample that their tokens attend to."],
    ["sankey_group_expert_region", "Group, expert, attention region", "Gate weight from eight stretches of the sample to the eight heaviest experts, and on to the quarters that their tokens attend to."],
  ]) {
    figures.add({
      id: table.replaceAll("_", "-"), part: "tokens", title, read, file: table, studies: [table], warn: "an expert fed by one place only; a region that nothing flows to.",
      needs: "a run with --attention full and a dump, or the array attn_weights.npy",
      has: (component) => Boolean(data.rows(component, table)),
      draw: ({ component }) => {
        const rows = data.rows(component, table), nodes = [], index = new Map();
        const node = (side, name) => {
          const key = `${side}/${name}`;
          if (!index.has(key)) {
            index.set(key, nodes.length);
            nodes.push({ name: String(name), color: side === 1 ? theme.color(Number(/\d+/.exec(name)?.[0] ?? 0), data.numExperts(component)) : side === 0 ? theme.variable("soft") : theme.color(side) });
          }
          return index.get(key);
        };
        const first = Math.min(...rows.map((row) => row.stage));
        const links = rows.filter((row) => row.value > 0).map((row) => ({ source: node(row.stage - first, row.source), target: node(row.stage - first + 1, row.target), value: row.value, tip: `${moetap.plain(row.source)} → ${moetap.plain(row.target)}<br><b>${numbers.text(row.value)}</b>` }));
        return { ...parts.sankey({ nodes, links, height: Math.min(1400, Math.max(420, 60 + nodes.length * 13)) }), note: data.leftOut(component, table), table: figures.tableOf(rows, ["stage", { name: "source", text: true }, { name: "target", text: true }, "value"]) };
      },
    });
  }
})();
