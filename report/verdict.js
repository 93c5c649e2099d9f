"use strict";
// The answer in one sentence: is the routing of a run balanced, and where did a training end?
(() => {
  const { data, numbers } = moetap;
  const { percent, count, list } = numbers;
  // Below this coefficient of variation a load counts as balanced (docs/report.md has the reasons of each limit).
  const kBalanced = 0.5;
  const kStrong = 1;
  const kAlmostAll = 0.9;

  const heaviest = (layer) => {
    const shares = numbers.shares(layer.selected_count);
    const expert = numbers.argmax(shares);
    return { layer, expert, share: shares[expert], even: 1 / shares.length };
  };

  /** Layers of a component that routed tokens to more than one expert. */
  const routed = (component, run) => data.layers(component, run).filter((layer) => layer.tokens > 0 && layer.selected_count?.length > 1);

  const short = (value) => numbers.text(Number(value.toPrecision(2)));

  /** {level, sign, text, detail, component, layer, expert}: of all components of a run; `detail` leads to the expert. */
  const ofRun = (run = 0) => {
    const names = Object.keys(data.runs[run]?.components ?? {});
    const all = names.flatMap((component) => routed(component, run).map((layer) => ({ component, ...layer })));
    if (!all.length) return null;
    const uneven = all.filter((layer) => layer.load_cv >= kBalanced);
    const dead = all.filter((layer) => layer.dead_experts > 0);
    const collapsed = all.filter((layer) => heaviest(layer).share * (layer.top_k ?? 1) >= kAlmostAll && layer.num_experts > (layer.top_k ?? 1));
    const worst = all.reduce((a, b) => (b.load_cv > a.load_cv ? b : a));
    const top = heaviest(worst);
    const where = names.length > 1 ? ` of ${worst.component}` : "";
    const place = { component: worst.component, layer: worst.layer, expert: top.expert };
    const detail = `Layer ${worst.layer}${where} is the most uneven: expert ${top.expert} takes ${percent(top.share)} of its load, ${short(top.share / top.even)} times an even share.`;
    if (collapsed.length) {
      return { level: "bad", sign: "Collapsed", text: `Routing has collapsed in ${collapsed.length} of ${count(all.length, "layer")}: nearly every token goes to the same expert.`, detail, ...place };
    }
    if (uneven.length || dead.length) {
      const parts = [];
      if (uneven.length) parts.push(`uneven in ${uneven.length} of ${count(all.length, "layer")}`);
      if (dead.length) parts.push(`${count(numbers.sum(dead.map((layer) => layer.dead_experts)), "expert")} never chosen in ${list("layer", dead.map((layer) => layer.layer))}`);
      const bad = uneven.some((layer) => layer.load_cv >= kStrong) || dead.length > 0;
      return { level: bad ? "bad" : "watch", sign: bad ? "Unbalanced" : "Partly uneven", text: `Routing is ${parts.join(", with ")}.`, detail, ...place };
    }
    return { level: "good", sign: "Balanced", text: `Routing is balanced in ${all.length === 1 ? "its one layer" : all.length === 2 ? "both layers" : `all ${all.length} layers`}: every expert is used.`, detail, ...place };
  };

  const kCollapse = 0.95, kMostOfAll = 0.5;

  /** The last epoch of a training log against its first. */
  const ofTraining = () => {
    const epochs = data.all.training?.epochs ?? [];
    const last = epochs.findLast((row) => row.utilization?.some(numbers.isNumber));
    if (!last) return null;
    const expert = numbers.argmax(last.utilization.map((share) => share ?? 0)), share = last.utilization[expert], even = 1 / last.utilization.length;
    const level = share >= kCollapse ? "bad" : share >= Math.max(kMostOfAll, 2 * even) ? "watch" : "good";
    const moved = (key, name, shown) => {
      const known = epochs.filter((row) => numbers.isNumber(row[key]));
      if (known.length < 2) return [];
      const [from, to] = [known[0][key], known.at(-1)[key]];
      return [`${name} ${to > from ? "rose" : to < from ? "fell" : "stayed"} from ${shown(from)} to ${shown(to)}`];
    };
    const moves = [...moved("entropy", "entropy", (value) => `${short(value)} nats`), ...moved("routing_acc", "routing accuracy", percent)];
    return {
      level, sign: { bad: "Collapsed", watch: "Leans on one expert", good: "Spread out" }[level],
      text: `At the end, epoch ${last.epoch}, expert ${expert} gets ${percent(share)} of the tokens, ${short(share / even)} times an even share.`,
      detail: moves.length ? `Since the first epoch ${moves.join(" and ")}.` : "", figure: "expert-utilization",
    };
  };

  moetap.verdict = { ofRun, ofTraining, heaviest, routed, short, kBalanced, kStrong };
})();
