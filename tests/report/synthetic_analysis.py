"""An analysis.json with every table that the page draws, of the columns that the studies write."""

from __future__ import annotations

import json
import pathlib

import numpy as np


def columns(names: str, rows: list[tuple]) -> dict[str, list]:
    keys = names.split()
    return {key: [row[i] for row in rows] for i, key in enumerate(keys)}


def evolution_tables(generator: np.random.Generator, layers: int, experts: int) -> dict[str, dict]:
    importance = generator.dirichlet(np.ones(experts), size=layers)
    usage = generator.dirichlet(np.ones(experts), size=layers)
    top, stats = [], []
    for layer in range(layers):
        total = 0.0
        for rank, expert in enumerate(np.argsort(-importance[layer])):
            total += importance[layer, expert]
            top.append((str(layer), rank + 1, int(expert), float(importance[layer, expert]), total))
            if total > 0.8:
                break
    for expert in range(experts):
        cv = importance[:, expert].std() / importance[:, expert].mean()
        stats.append((expert, float(1 / (1 + cv))))
    moves = []
    for layer in range(layers - 1):
        weight = generator.gamma(1.0, size=(experts, experts))
        for a in range(experts):
            for b in range(experts):
                probability = float(weight[a, b] / weight[a].sum())
                moves.append((str(layer), str(layer + 1), a, b, float(weight[a, b]), probability))
    rows = [
        (str(layer), e, int(usage[layer, e] * 1000), float(usage[layer, e]), float(importance[layer, e]))
        for layer in range(layers)
        for e in range(experts)
    ]
    changes = [
        (
            str(layer),
            str(layer + 1),
            float(np.abs(usage[layer + 1] - usage[layer]).sum()),
            float(np.abs(importance[layer + 1] - importance[layer]).sum()),
        )
        for layer in range(layers - 1)
    ]
    return {
        "expert_usage": columns("layer expert_id count usage importance", rows),
        "layer_changes": columns("from_layer to_layer change_usage change_importance", changes),
        "top_experts": columns("layer rank expert_id importance cumulative", top),
        "expert_evolution_stats": columns("expert_id stability", stats),
        "expert_transitions": columns("from_layer to_layer from_expert to_expert weight probability", moves),
    }


def serving_tables(generator: np.random.Generator, layers: int, experts: int) -> dict[str, dict]:
    cache, placed, imbalance, foreseen = [], [], [], []
    for layer in range(layers):
        for capacity in range(1, experts + 1):
            share = capacity / experts
            cache.append((str(layer), capacity, 4000, share**0.8, min(1.0, share**0.5), share**0.9))
        for gpus in (2, 4, 8):
            for placement in ("contiguous", "balanced"):
                base = 1 + 0.1 * gpus * (1.0 if placement == "contiguous" else 0.3)
                placed.append((str(layer), gpus, placement, base, base + 0.1, base + 0.5, base + 0.9, gpus / 2))
        imbalance.append((str(layer), 30, 1.5, 1.8, 2.2, float(2.5 + generator.random())))
    for layer in range(layers - 1):
        foreseen.append((str(layer), str(layer + 1), 900, 0.4, float(0.6 + 0.2 * generator.random()), 0.55))
    return {
        "expert_cache": columns("layer capacity accesses lru optimal static", cache),
        "placement": columns(
            "layer gpus placement imbalance_run imbalance_p50 imbalance_p95 imbalance_max fanout", placed
        ),
        "imbalance": columns("layer forwards run p50 p95 max", imbalance),
        "predictability": columns("from_layer to_layer tokens recall_popular recall_ids recall_token", foreseen),
    }


def meaning_tables(generator: np.random.Generator, layers: int, experts: int, group: str) -> dict[str, dict]:
    groups = [group, "digit 1", "digit 2"]
    usage, difference, enriched, pairs = [], [], [], []
    for layer in range(layers):
        shares = generator.dirichlet(np.ones(experts), size=len(groups)) * 2
        for g, name in enumerate(groups):
            for e in range(experts):
                value = float(shares[g, e])
                usage.append((str(layer), name, 40, 440, e, value, value * 0.9, value * 1.1))
        for a in range(len(groups)):
            for b in range(a + 1, len(groups)):
                difference.append((str(layer), groups[a], groups[b], float(generator.random() * 0.2), 1 / 1001))
        for e in range(experts):
            for token in range(3):
                lift = float(1 + generator.random() * 4)
                enriched.append((str(layer), e, 10 + token, f" word{token}", 50 - token, lift, 1e-6 * (token + 1)))
        share = generator.dirichlet(np.ones(experts * (experts - 1) // 2))
        ordered = sorted(zip(share, [(a, b) for a in range(experts) for b in range(a + 1, experts)], strict=True))[::-1]
        pairs += [(str(layer), a, b, float(s * 100), float(s), int(s * 1000), float(s * 28)) for s, (a, b) in ordered]
    return {
        "group_usage": columns("layer group samples tokens expert_id usage usage_low usage_high", usage),
        "group_difference": columns("layer group_a group_b js_divergence p_value", difference),
        "token_expert_enrichment": columns("layer expert_id token_id text count lift p_value", enriched),
        "expert_cooperation": columns("layer expert_a expert_b strength share tokens lift", pairs),
    }


def comparison_tables(generator: np.random.Generator, layers: int, experts: int) -> dict[str, dict]:
    aligned = [
        (str(n), 900, 0, 0, 1 - 0.05 * n, 1 - 0.03 * n, 1 - 0.02 * n, 0.1 * n, None, None, None) for n in range(layers)
    ]
    order = [generator.permutation(experts) for _ in range(layers)]
    matched = [(str(n), e, int(order[n][e]), 0.9, 0.3) for n in range(layers) for e in range(experts)]
    return {
        "alignment": columns(
            "layer tokens unmatched_a unmatched_b same_set same_first overlap weight_l1 kl margin_same margin_changed",
            aligned,
        ),
        "matching": columns("layer expert_a expert_b similarity identity_similarity", matched),
    }


def write_analysis(
    folder: pathlib.Path,
    *,
    layers: int = 4,
    experts: int = 8,
    seed: int = 1,
    component: str = "language_model",
    group: str = "digit 0",
    sentence: str = "layer 2 holds 80 % of its importance in 3 of 8 experts",
) -> dict:
    """Writes FOLDER/analysis.json and returns it. Every table is a study of its own."""
    generator = np.random.default_rng(seed)
    tables = {
        **evolution_tables(generator, layers, experts),
        **serving_tables(generator, layers, experts),
        **meaning_tables(generator, layers, experts, group),
        **comparison_tables(generator, layers, experts),
    }
    studies = {name: {"sentence": "", "tables": {name: table}, "notices": []} for name, table in tables.items()}
    studies["top_experts"]["sentence"] = sentence
    analysis = {
        "schema_version": 1,
        "moetap_version": "0.1.0",
        "inputs": ["run"],
        "components": {component: studies},
        "not_run": [{"study": "aa_composition", "needs": "FASTA files"}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "analysis.json").write_text(json.dumps(analysis))
    return analysis
