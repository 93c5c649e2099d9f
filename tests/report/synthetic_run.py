"""Run directories as moetap writes them, of any size, with numbers that follow from seeded tokens."""

from __future__ import annotations

import json
import pathlib

import numpy as np


def router_metrics(logits: np.ndarray, top_k: int) -> dict:
    """What summary.json says about a softmax router over its tokens; formulas as in the docs of the metrics."""
    tokens, experts = logits.shape
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    ids = np.argsort(-p, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(p, ids, axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    count = np.bincount(ids.ravel(), minlength=experts)
    top1 = np.bincount(ids[:, 0], minlength=experts)
    chosen = np.zeros((tokens, experts))  # reals multiply faster, and are exact here
    np.put_along_axis(chosen, ids, 1, axis=1)
    weight_sum = np.bincount(ids.ravel(), weights=weights.ravel(), minlength=experts)
    entropy = float(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean())
    mean = count.mean()
    ordered = np.sort(count)
    return {
        "num_experts": experts,
        "top_k": top_k,
        "scoring": "softmax",
        "tokens": tokens,
        "dropped_tokens": 0,
        "invalid_ids": 0,
        "out_of_range_terms": 0,
        "entropy_all": entropy,
        "entropy_topk": float(-(weights * np.log(weights)).sum(axis=1).mean()),
        "entropy_all_bits": entropy / np.log(2),
        "entropy_ratio": entropy / np.log(experts) if experts > 1 else None,
        "margin": float((weights[:, 0] - weights[:, 1]).mean()) if top_k > 1 else None,
        "router_z_loss": float((np.log(np.exp(logits).sum(axis=1)) ** 2).mean()),
        "balance_loss": float(experts * (top1 / tokens * p.mean(axis=0)).sum()),
        "load_cv": float(count.std(ddof=1) / mean) if experts > 1 else 0.0,
        "max_violation": float(count.max() / mean - 1),
        "gini": float((2 * np.arange(1, experts + 1) - experts - 1) @ ordered / (experts * ordered.sum())),
        "jain": float(count.sum() ** 2 / (experts * (count.astype(float) ** 2).sum())),
        "active_experts": int((count > 0).sum()),
        "dead_experts": int((count == 0).sum()),
        "underused_experts": int((count < mean / 2).sum()),
        "repeat_rate": float((ids[1:, 0] == ids[:-1, 0]).mean()),
        "selected_count": count.tolist(),
        "zero_weight_count": [0] * experts,
        "top1_count": top1.tolist(),
        "mean_prob": p.mean(axis=0).tolist(),
        "mean_weight": [float(s / c) if c else None for s, c in zip(weight_sum, count, strict=True)],
        "usage": (count / tokens).tolist(),
        "load_ratio": (count / mean).tolist(),
        "coactivation": (chosen.T @ chosen).astype(np.int64).tolist(),
        "_first": ids[:, 0],
    }


def attention_metrics(generator: np.random.Generator, experts: int, heads: int, regions: list[str]) -> dict:
    """A layer of `attention`, with plausible numbers of the right shapes."""
    parts = len(regions)
    mass = generator.dirichlet(np.ones(parts))
    flow = generator.dirichlet(np.ones(parts), size=(experts, parts))
    return {
        "name": "model.layers.0.self_attn",
        "implementation": "sdpa",
        "num_heads": heads,
        "num_key_heads": heads,
        "regions": regions,
        "rows": 500,
        "empty_rows": 0,
        "not_finite_rows": 0,
        "entropy": float(generator.uniform(1, 2)),
        "max_weight": 0.4,
        "key_mass": 1.0,
        "distance": 3.5,
        "self": 0.2,
        "diagonal": 0.7,
        "diagonal_expected": 0.5,
        "far": 0.1,
        "far_expected": 0.2,
        "first": float(generator.uniform(0.2, 0.7)),
        "last": 0.2,
        "region_mass": mass.tolist(),
        "received": 1.0,
        "flow": generator.dirichlet(np.ones(parts), size=parts).tolist(),
        "specialization": dict.fromkeys(["diagonal", "far", "n_terminal", "c_terminal", "n_to_c", "c_to_n"], 1.0),
        "head_entropy": generator.uniform(0, 2, heads).tolist(),
        "head_distance": generator.uniform(1, 5, heads).tolist(),
        "head_first": generator.uniform(0, 1, heads).tolist(),
        "head_max_logit": generator.uniform(1, 30, heads).tolist(),
        "experts": {
            "router": "model.layers.0.mlp.gate",
            "gate_mass": generator.uniform(10, 100, experts).tolist(),
            "mean_distance": generator.uniform(1, 5, experts).tolist(),
            "entropy": generator.uniform(0.5, 2, experts).tolist(),
            "received": generator.uniform(0.5, 1.5, experts).tolist(),
            "flow": flow.tolist(),
            "flow_weight": generator.uniform(1, 20, (experts, parts)).tolist(),
            "specialization": generator.uniform(0.4, 2.5, (experts, 6)).tolist(),
            "pattern": generator.dirichlet(np.ones(16), size=(experts, 16)).tolist(),
            "unassigned_slots": 0,
            "out_of_range_weights": 0,
        },
    }


def write_run(
    folder: pathlib.Path,
    *,
    layers: int = 4,
    experts: int = 8,
    top_k: int = 2,
    tokens: int = 600,
    seed: int = 0,
    attention: bool = False,
    module: str = "model.layers.{}.mlp.gate",
    component: str = "language_model",
    dead: tuple[int, ...] = (),
    pairs: bool = True,
) -> dict:
    """Writes a finished run of one rank and returns its summary."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(tokens, 16))
    of_layers: dict[str, dict] = {}
    firsts = []
    for number in range(layers):
        logits = hidden @ generator.normal(size=(16, experts)) * 0.3 + generator.normal(size=experts) * 0.1 * number
        for expert in dead:
            logits[:, expert] = -30
        metrics = router_metrics(logits, top_k)
        firsts.append(metrics.pop("_first"))
        if not pairs:
            metrics["coactivation"] = None
        of_layers[str(number)] = {"name": module.format(number), **metrics, "transition": None}
    if pairs:
        for number in range(layers - 1):
            moved = np.zeros((experts, experts), dtype=np.int64)
            np.add.at(moved, (firsts[number], firsts[number + 1]), 1)
            of_layers[str(number)]["transition"] = moved.tolist()
    attention_layers = {}
    if attention:
        attention_layers = {
            component: {str(n): attention_metrics(generator, experts, 4, ["text", "image"]) for n in range(layers)}
        }
    summary = {
        "schema_version": 1,
        "task": "log_metrics",
        "forwards": 3,
        "components": {component: of_layers},
        "attention": attention_layers,
    }
    about = folder / "moetap"
    about.mkdir(parents=True)
    (about / "summary.json").write_text(json.dumps(summary))
    hooks = [
        {
            "id": n,
            "layer": str(n),
            "run_layer": str(n),
            "name": module.format(n),
            "kind": "router",
            "method": "forward",
            "component": component,
            "num_experts": experts,
            "top_k": top_k,
            "scoring": "softmax",
            "reported": True,
        }
        for n in range(layers)
    ]
    manifest = {
        "schema_version": 1,
        "model": "model.pt",
        "sha256": "0" * 64,
        "versions": {"moetap": "0.1.0"},
        "device": "cpu",
        "config": {"task": "log_metrics"},
        "rank": 0,
        "world_size": 1,
        "hooks": hooks,
        "counters": {"forwards": 3, "tokens": tokens, "dropped": 0, "failed_hooks": 0},
        "notices": {},
        "times": {},
    }
    (about / "manifest.json").write_text(json.dumps(manifest))
    (folder / "rank0_metric_eval_done.txt").write_text("")
    return summary
