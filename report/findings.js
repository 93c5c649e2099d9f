"use strict";
// The sentences of the overview, computed from the data: {level: bad | watch | good | info, text, figure, layer, expert}.
(() => {
  const { data, numbers } = moetap;
  const { percent, count, list } = numbers;
  // Below this coefficient of variation a load counts as balanced (docs/report.md has the reasons of each limit).
  const kBalanced = 0.5;
  const kStrong = 1;
  const kAlmostAll = 0.9;
  const kSure = 0.1;
  const kClip = 100;

  const heaviest = (layer) => {
    const shares = numbers.shares(layer.selected_count);
    const expert = numbers.argmax(shares);
    return { layer, expert, share: shares[expert], even: 1 / shares.length };
  };

  const routed = (component, run) => data.layers(component, run).filter((layer) => layer.tokens > 0 && layer.selected_count?.length > 1);

  /** {level, sign, text}: the answer in one sentence. */
  const verdict = (run = 0) => {
    const all = Object.keys(data.runs[run]?.components ?? {}).flatMap((component) => routed(component, run));
    if (!all.length) return null;
    const uneven = all.filter((layer) => layer.load_cv >= kBalanced);
    const dead = all.filter((layer) => layer.dead_experts > 0);
    const collapsed = all.filter((layer) => heaviest(layer).share * (layer.top_k ?? 1) >= kAlmostAll && layer.num_experts > (layer.top_k ?? 1));
    const worst = all.reduce((a, b) => (b.load_cv > a.load_cv ? b : a));
    const top = heaviest(worst);
    const detail = `Layer ${worst.layer} is the most uneven: expert ${top.expert} takes ${percent(top.share)} of the selections (an even share is ${percent(top.even)}), variation ${numbers.text(worst.load_cv)}.`;
    if (collapsed.length) {
      return { level: "bad", sign: "Collapsed", text: `Routing has collapsed in ${collapsed.length} of ${count(all.length, "layer")}: nearly every token goes to the same expert. ${detail}` };
    }
    if (uneven.length || dead.length) {
      const parts = [];
      if (uneven.length) parts.push(`uneven in ${uneven.length} of ${count(all.length, "layer")} (variation ${kBalanced} or more)`);
      if (dead.length) parts.push(`${count(numbers.sum(dead.map((layer) => layer.dead_experts)), "expert")} never chosen in ${list("layer", dead.map((layer) => layer.layer))}`);
      const bad = uneven.some((layer) => layer.load_cv >= kStrong) || dead.length > 0;
      return { level: bad ? "bad" : "watch", sign: bad ? "Unbalanced" : "Partly uneven", text: `Routing is ${parts.join(", with ")}. ${detail}` };
    }
    return { level: "good", sign: "Balanced", text: `Routing is balanced in ${all.length === 1 ? "its one layer" : `all ${all.length} layers`}: every expert is used and no load varies by ${kBalanced} or more. ${detail}` };
  };

  const ofRouters = (component, run) => {
    const all = routed(component, run);
    const found = [];
    if (!all.length) return found;
    const note = (level, text, figure, more = {}) => found.push({ level, text, figure, component, ...more });
    const idle = new Map();  // by the list of dead experts: the layers that have it
    for (const layer of all.filter((one) => one.dead_experts > 0)) {
      const dead = layer.selected_count.flatMap((n, e) => (n === 0 ? [e] : []));
      idle.set(dead.join(), { dead, layers: [...(idle.get(dead.join())?.layers ?? []), layer.layer], of: layer.num_experts });
    }
    for (const { dead, layers, of } of [...idle.values()].sort((a, b) => b.layers.length * b.dead.length - a.layers.length * a.dead.length).slice(0, 3)) {
      const where = list("layer", layers);
      note("bad", `${where[0].toUpperCase()}${where.slice(1)} never ${layers.length === 1 ? "chooses" : "choose"} ${list("expert", dead)}${dead.length > 1 ? ` (${dead.length} of ${of})` : ""}.`, "usage", { layer: layers[0], ...(dead.length === 1 ? { expert: dead[0] } : {}) });
    }
    const heavy = all.map(heaviest).sort((a, b) => b.share / b.even - a.share / a.even);
    for (const { layer, expert, share, even } of heavy.slice(0, 3)) {
      if (share / even < 1.5) break;
      note(share / even >= 3 ? "bad" : "watch", `Layer ${layer.layer} sends ${percent(share)} of its load to expert ${expert} (an even share is ${percent(even)}).`, "usage", { layer: layer.layer, expert });
    }
    const uneven = all.filter((layer) => layer.load_cv >= kBalanced);
    if (uneven.length) {
      const worst = uneven.reduce((a, b) => (b.load_cv > a.load_cv ? b : a));
      note(worst.load_cv >= kStrong ? "bad" : "watch", `Load varies by ${kBalanced} or more in ${list("layer", uneven.map((layer) => layer.layer))}${uneven.length > 1 ? `, most in layer ${worst.layer}` : ""} (${numbers.text(worst.load_cv)}).`, "balance", { layer: worst.layer });
    } else {
      note("good", `Load varies by less than ${kBalanced} in every layer (most ${numbers.text(Math.max(...all.map((layer) => layer.load_cv)))}).`, "balance");
    }
    const known = all.filter((layer) => numbers.isNumber(layer.entropy_ratio));
    if (known.length) {
      const low = known.reduce((a, b) => (b.entropy_ratio < a.entropy_ratio ? b : a));
      const high = known.reduce((a, b) => (b.entropy_ratio > a.entropy_ratio ? b : a));
      const sure = low.entropy_ratio < kSure;
      note(sure ? "watch" : "info", `Routers decide with ${percent(low.entropy_ratio)} (layer ${low.layer}) to ${percent(high.entropy_ratio)} (layer ${high.layer}) of the largest possible entropy${sure ? ": the first is almost certain of each choice" : ""}.`, "entropy", { layer: low.layer });
    }
    const underused = numbers.sum(all.map((layer) => layer.underused_experts - layer.dead_experts));
    if (underused > 0) note("watch", `${count(underused, "expert")} of all layers ${underused === 1 ? "gets" : "get"} less than half of an even load.`, "usage", {});
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
      found.push({ level: most.divergence > 0.05 ? "watch" : "info", component, text: `Usage changed most in layer ${most.layer} (divergence ${numbers.text(most.divergence)} bits): expert ${most.expert} went from ${percent(most.from)} to ${percent(most.to)}.`, figure: "change-usage", layer: most.layer, expert: most.expert });
      const mean = numbers.sum(changes.map((change) => change.cv)) / changes.length;
      found.push({ level: "info", component, text: `Load varies ${mean > 0 ? "more" : "less"} in the second run: by ${numbers.text(Math.abs(mean))} on average over ${count(changes.length, "layer")}.`, figure: "change-metrics" });
    }
    return found;
  };

  /** The sentences of `moetap analyze`, each with the figure that shows its study. */
  const ofStudies = (component) => Object.entries(data.studies(component)).flatMap(([name, study]) => {
    const figure = moetap.figures.all.find((one) => one.studies?.includes(name) && one.has(component));
    const number = /\blayer (\S+?)[,:;.]?\s/i.exec(`${study.sentence ?? ""} `)?.[1];
    const ids = data.layerIds(component);
    const layer = study.counts_from_one ? ids[Number(number) - 1] : number;
    const known = layer !== undefined && ids.includes(layer);
    const counted = study.counts_from_one && number !== undefined && ids[0] !== "1" ? " (layers counted from 1)" : "";
    const sentence = study.sentence ? `${study.sentence[0].toUpperCase()}${study.sentence.slice(1)}${counted}.` : "";
    return [
      ...(study.sentence ? [{ level: "info", component, text: sentence, figure: figure?.id, study: name, ...(known ? { layer } : {}) }] : []),
      ...(study.notices ?? []).map((text) => ({ level: "watch", component, text, figure: figure?.id, study: name })),
    ];
  });

  const ofRun = (run) => Object.entries(data.runs[run].warnings ?? {}).map(([text]) => ({ level: "watch", text, figure: null }));

  const ofTraining = () => (data.all.training?.diagnostics ?? []).filter((one) => one.level !== "info").slice(0, 6)
    .map((one) => ({ level: one.level, text: `Training log${one.line ? `, line ${one.line}` : ""}: ${one.text}`, figure: "training-diagnostics" }));

  const all = (component) => {
    const order = { bad: 0, watch: 1, good: 2, info: 3 };
    const found = [];
    data.runs.forEach((run, i) => {
      const label = (finding) => (data.runs.length > 1 ? { ...finding, text: `${data.runName(i)}: ${finding.text}` } : finding);
      found.push(...ofRun(i).map(label), ...ofRouters(component, i).map(label), ...ofAttention(component, i).map(label));
    });
    found.push(...ofTraining());
    const changed = data.runs.length > 1 ? ofChange(component) : [];
    return [...changed, ...found.sort((a, b) => order[a.level] - order[b.level]), ...ofStudies(component)];
  };

  moetap.findings = { verdict, all, kBalanced };
})();
