"use strict";
// The sentences of the overview, computed from the data: {level: bad | watch | good | info, text, figure, layer, expert}.
(() => {
  const { data, numbers } = moetap;
  const { percent, count, list } = numbers;
  const { heaviest, routed, short, kBalanced, kStrong } = moetap.verdict;
  // Limits: docs/report.md has the reasons of each.
  const kHeavy = 1.5;
  const kProblem = 3;
  const kSure = 0.1;
  const kClip = 100;

  /** "2 and 4 in layer 1, 7 in layer 2", of [{layer, experts}]. */
  const places = (found) => found.map(({ layer, experts }) => `${list("expert", experts).replace(/^experts? /, "")} in layer ${layer}`).join(", ");

  /** Experts that a layer never chooses. */
  const dead = (all, note) => {
    const idle = new Map();  // by the list of dead experts: the layers that have it
    for (const layer of all.filter((one) => one.dead_experts > 0)) {
      const experts = layer.selected_count.flatMap((n, e) => (n === 0 ? [e] : []));
      idle.set(experts.join(), { experts, layers: [...(idle.get(experts.join())?.layers ?? []), layer.layer], of: layer.num_experts });
    }
    const groups = [...idle.values()].sort((a, b) => b.layers.length * b.experts.length - a.layers.length * a.experts.length);
    if (groups.length > 3) {
      const layers = all.filter((one) => one.dead_experts > 0), most = layers.reduce((a, b) => (b.dead_experts > a.dead_experts ? b : a));
      note("bad", `${count(numbers.sum(layers.map((one) => one.dead_experts)), "expert")} of ${count(layers.length, "layer")} are never chosen, most in layer ${most.layer}: ${most.dead_experts} of ${most.num_experts}.`, "active", { layer: most.layer });
      return;
    }
    for (const { experts, layers, of } of groups) {
      const where = list("layer", layers);
      note("bad", `${where[0].toUpperCase()}${where.slice(1)} never ${layers.length === 1 ? "chooses" : "choose"} ${list("expert", experts)}${experts.length > 1 ? ` (${experts.length} of ${of})` : ""}.`, "usage", { layer: layers[0], ...(experts.length === 1 ? { expert: experts[0] } : {}) });
    }
  };

  const ofRouters = (component, run) => {
    const all = routed(component, run);
    const found = [];
    if (!all.length) return found;
    const note = (level, text, figure, more = {}) => found.push({ level, text, figure, component, ...more });
    dead(all, note);
    const heavy = all.map(heaviest).sort((x, y) => y.share / y.even - x.share / x.even).filter((one) => one.share / one.even >= kHeavy);
    if (heavy.length) {
      const [{ layer, expert, share, even }] = heavy, named = heavy.slice(0, 3).map((one) => `${one.expert} in layer ${one.layer.layer} (${percent(one.share)} of its load, ${short(one.share / one.even)} times an even share)`);
      note(share / even >= kProblem ? "bad" : "watch", `Heaviest ${heavy.length > 1 ? "experts" : "expert"}: ${named.join(", ")}${heavy.length > 3 ? `; ${count(heavy.length - 3, "more layer")} ${heavy.length === 4 ? "has" : "have"} one of ${kHeavy} times or more` : ""}.`, "usage", { layer: layer.layer, expert });
    }
    const light = all.flatMap((layer) => {
      const experts = layer.selected_count.flatMap((n, e) => (n > 0 && layer.load_ratio[e] < 0.5 ? [e] : []));
      return experts.length ? [{ layer: layer.layer, experts, of: layer.num_experts }] : [];
    });
    if (light.length) {
      const few = numbers.sum(light.map((one) => one.experts.length)), most = light.reduce((x, y) => (y.experts.length > x.experts.length ? y : x));
      note("watch", `${count(few, "expert")} of ${numbers.text(numbers.sum(all.map((layer) => layer.num_experts)))} ${few === 1 ? "gets" : "get"} less than half of an even load${few <= 8 ? `: ${places(light)}` : `, most in layer ${most.layer}: ${most.experts.length} of ${most.of}`}.`, "active", { layer: most.layer });
    }
    const uneven = all.filter((layer) => layer.load_cv >= kBalanced);
    if (uneven.length > 1) {
      const worst = uneven.reduce((x, y) => (y.load_cv > x.load_cv ? y : x));
      note(worst.load_cv >= kStrong ? "bad" : "watch", `The loads' variation is ${kBalanced} or more in ${list("layer", uneven.map((layer) => layer.layer))}, most in layer ${worst.layer}: ${short(worst.load_cv)}.`, "balance", { layer: worst.layer });
    }
    const known = all.filter((layer) => numbers.isNumber(layer.entropy_ratio));
    if (known.length) {
      const low = known.reduce((a, b) => (b.entropy_ratio < a.entropy_ratio ? b : a));
      const high = known.reduce((a, b) => (b.entropy_ratio > a.entropy_ratio ? b : a));
      const sure = low.entropy_ratio < kSure;
      note(sure ? "watch" : "info", `Routers decide with ${percent(low.entropy_ratio)} (layer ${low.layer}) to ${percent(high.entropy_ratio)} (layer ${high.layer}) of the largest possible entropy${sure ? ": the first is almost certain of each choice" : ""}.`, "entropy", { layer: low.layer });
    }
    const repeats = all.filter((layer) => numbers.isNumber(layer.repeat_rate));
    if (repeats.length) {
      const most = repeats.reduce((a, b) => (b.repeat_rate > a.repeat_rate ? b : a));
      const chance = numbers.sum(numbers.shares(most.top1_count).map((share) => share * share));
      note("info", `Neighbouring tokens go to the same first expert most often in layer ${most.layer}: ${percent(most.repeat_rate)}, where chance gives ${percent(chance)}.`, "repeat", { layer: most.layer });
    }
    const dropped = all.filter((layer) => layer.dropped_tokens > 0);
    if (dropped.length) note("watch", `${count(numbers.sum(dropped.map((layer) => layer.dropped_tokens)), "token")} got no expert with weight in ${list("layer", dropped.map((layer) => layer.layer))} (capacity or skipping).`, "balance", { layer: dropped[0].layer });
    const outside = all.filter((layer) => layer.out_of_range_terms > 0);
    if (outside.length) note("bad", `Infinite, NaN or too large values in ${list("layer", outside.map((layer) => layer.layer))}: what needs them is left out.`, "entropy", { layer: outside[0].layer });
    return found;
  };

  const ofAttention = (component, run) => {
    const all = data.attentionLayers(component, run).filter((layer) => layer.rows > 0);
    const found = [];
    if (!all.length) return found;
    const sinks = all.filter((layer) => layer.first > 0.5);
    if (sinks.length) {
      const most = sinks.reduce((a, b) => (b.first > a.first ? b : a));
      found.push({ level: "info", component, text: `Attention sinks: the first four tokens take ${percent(most.first)} of layer ${most.layer}'s attention (over half in ${count(sinks.length, "layer")}).`, figure: "attention-over-layers", layer: most.layer });
    }
    const large = all.flatMap((layer) => (layer.head_max_logit ?? []).map((value, head) => ({ layer, head, value }))).filter((one) => one.value > kClip);
    if (large.length) {
      const most = large.reduce((a, b) => (b.value > a.value ? b : a));
      found.push({ level: "bad", component, text: `Scores before the softmax reach ${numbers.text(most.value)} in layer ${most.layer.layer}, head ${most.head}: training may need clipping of queries and keys.`, figure: "attention-heads", layer: most.layer.layer });
    }
    return found;
  };

  /** What changed from the first run to the second. */
  const ofChange = (component) => {
    const a = data.layers(component, 0), b = data.layers(component, 1);
    const found = [];
    const pairs = a.map((layer) => [layer, b.find((other) => other.layer === layer.layer)])
      .filter(([one, two]) => two && one.tokens > 0 && two.tokens > 0 && one.selected_count.length === two.selected_count.length);
    if (!a.length && !b.length) return [];
    if (!pairs.length) return [{ level: "info", component, text: `The runs have no layer of ${component} in common.`, figure: "overview" }];
    const changes = pairs.map(([one, two]) => {
      const p = numbers.shares(one.selected_count), q = numbers.shares(two.selected_count);
      const differences = p.map((share, e) => Math.abs(q[e] - share));
      const expert = numbers.argmax(differences);
      return { layer: one.layer, divergence: numbers.jensenShannon(p, q), expert, from: p[expert], to: q[expert], cv: two.load_cv - one.load_cv };
    });
    const most = changes.reduce((x, y) => (y.divergence > x.divergence ? y : x));
    if (most.divergence === 0) {
      found.push({ level: "good", component, text: "Both runs chose every expert equally often, in every layer.", figure: "change-usage" });
    } else {
      found.push({ level: most.divergence > 0.05 ? "watch" : "info", component, text: `Usage changed most in layer ${most.layer} (divergence ${short(most.divergence)} bits): expert ${most.expert} went from ${percent(most.from)} to ${percent(most.to)}.`, figure: "change-usage", layer: most.layer, expert: most.expert });
      const step = changes.reduce((x, y) => (Math.abs(y.cv) > Math.abs(x.cv) ? y : x));
      const [one, two] = pairs.find(([layer]) => layer.layer === step.layer);
      const rises = changes.filter((change) => change.cv > 0).length;
      found.push({ level: step.cv > 0 && two.load_cv >= kBalanced ? "watch" : "info", component, text: `Loads became more uneven in ${rises} of ${count(changes.length, "layer")}; the largest step is in layer ${step.layer}, whose variation went from ${short(one.load_cv)} to ${short(two.load_cv)}.`, figure: "change-metrics", layer: step.layer });
      const idle = [0, 1].map((run) => numbers.sum(pairs.map((pair) => pair[run].dead_experts)));
      if (idle[0] !== idle[1]) found.push({ level: idle[1] > idle[0] ? "bad" : "good", component, text: `Experts never chosen: ${idle[0]} in the first run, ${idle[1]} in the second.`, figure: "active" });
    }
    return found;
  };

  /** Which category an expert is used for most unlike all others: of the dump's counts. */
  const ofCategories = (component) => {
    const counted = data.all.categories?.[component];
    if (!counted) return [];
    let best = null;
    for (const [layer, rows] of Object.entries(counted.layers)) {
      const tokens = counted.tokens[layer], all = numbers.sum(tokens);
      rows[0].forEach((_, expert) => {
        const mean = numbers.sum(rows.map((row) => row[expert])) / all;
        rows.forEach((row, c) => {
          const usage = tokens[c] > 0 ? row[expert] / tokens[c] : mean;
          if (usage - mean > (best?.more ?? 0)) best = { more: usage - mean, usage, mean, layer, expert, category: counted.categories[c] };
        });
      });
    }
    if (!best) return [];
    const often = best.mean > 0 ? `, ${short(best.usage / best.mean)} times as often as on the average` : "";
    return [{ level: "info", component, text: `Expert ${best.expert} of layer ${best.layer} stands out by category: ${percent(best.usage)} of the tokens of ${moetap.short(best.category, 40)} choose it${often}.`, figure: "categories", layer: best.layer, expert: best.expert }];
  };

  // What experts are for comes first, then what it means for serving, then how the layers differ.
  const kStudies = ["groups", "group_usage", "group_difference", "token_expert_enrichment", "logged_metrics", "expert_attention_patterns", "region_specialization", "information_flow", "expert_cooperation",
    "predictability", "expert_cache", "imbalance", "placement", "expert_transitions", "expert_usage", "top_experts"];
  const kOfChange = new Set(["usage_comparison", "alignment", "matching", "switch_fraction", "saturation", "logged_switch_fraction"]);
  // What the page says of a run by itself.
  const kKnown = new Set(["usage", "layer_statistics", "evolution_report"]);
  const rank = (name) => (kStudies.includes(name) ? kStudies.indexOf(name) : kStudies.length);

  // The regions of the query × key plane under the names of their figure.
  const kPlane = { diagonal: "diagonal", far: "long range", n_terminal: "begin to begin", c_terminal: "end to end", n_to_c: "begin to end", c_to_n: "end to begin" };

  /** Runs by their names instead of their paths, regions as their figure calls them. */
  const readable = (words) => words.split(" ").map((word) => {
    const [, path, end] = /^(.*?)([,;.]?)$/.exec(word) ?? [null, word, ""];
    const run = data.runs.find(({ label }) => path.endsWith(`/${label}`));
    return run ? run.label + end : word;
  }).join(" ").replace(/attend to (\w+) /, (whole, region) => (kPlane[region] ? `attend to the region "${kPlane[region]}" ` : whole));

  /** The sentences of `moetap analyze`, each with the figure that shows its study. */
  const ofStudies = (component, isOfChange) => Object.entries(data.studies(component)).filter(([name]) => kOfChange.has(name) === isOfChange).sort((a, b) => rank(a[0]) - rank(b[0])).flatMap(([name, study]) => {
    const figures = moetap.figures.all.filter((one) => one.studies?.includes(name)), figure = figures.find((one) => one.has(component));
    const isSaid = kKnown.has(name) && routed(component, 0).length > 0;
    const says = study.sentence && !isSaid && (figure || !figures.length) && !study.sentence.endsWith("nothing is odd");
    const number = /\blayer (\S+?)[,:;.]?\s/i.exec(`${study.sentence ?? ""} `)?.[1];
    const ids = data.layerIds(component);
    const layer = study.counts_from_one ? ids[Number(number) - 1] : number;
    const known = layer !== undefined && ids.includes(layer);
    const counted = study.counts_from_one && number !== undefined ? " (layers counted from 1)" : "";
    return [
      ...(says ? [{ level: "info", component, text: numbers.sentence(`${readable(study.sentence)}${counted}`), figure: figure?.id, study: name, ...(known ? { layer } : {}) }] : []),
      // Where a figure shows the study, they stand below it.
      ...(figure ? [] : (study.notices ?? []).map((text) => ({ level: "watch", component, text: numbers.sentence(text), study: name }))),
    ];
  });

  const ofRun = (run) => Object.entries(data.runs[run].warnings ?? {}).map(([text]) => ({ level: "watch", text, figure: null }));

  /** Of lines that say the same but for numbers, the first stands for all. */
  const ofTraining = () => {
    const groups = new Map();
    for (const one of data.all.training?.diagnostics ?? []) {
      if (one.level === "info") continue;
      const key = `${one.file}/${one.level}/${one.text.replace(/[\d.]+/g, "#")}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    return [...groups.values()].map(([first, ...others]) => {
      const where = first.line ? `, line ${first.line}${others.length ? ` and ${others.length} more` : ""}` : "";
      return { level: first.level, text: numbers.sentence(`${first.file ?? "training log"}${where}: ${first.text}`), figure: "training-diagnostics" };
    });
  };

  const all = (component) => {
    const order = { bad: 0, watch: 1, good: 2, info: 3 };
    const found = [];
    data.runs.forEach((run, i) => {
      const label = (finding) => (data.runs.length > 1 ? { ...finding, text: `${data.runName(i)}: ${finding.text}` } : finding);
      found.push(...ofRun(i).map(label), ...ofRouters(component, i).map(label), ...ofAttention(component, i).map(label));
    });
    found.push(...ofTraining());
    found.sort((a, b) => order[a.level] - order[b.level]);
    const changed = data.runs.length > 1 ? ofChange(component) : [];
    const odd = found.filter((one) => one.level === "bad" || one.level === "watch"), facts = found.filter((one) => !odd.includes(one));
    return [...changed, ...ofStudies(component, true), ...odd, ...ofCategories(component), ...facts, ...ofStudies(component, false)];
  };

  moetap.findings = { all };
})();
