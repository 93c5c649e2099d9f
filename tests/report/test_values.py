"""The numbers in the figures are those of the files, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run

LAYERS, EXPERTS = 4, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_page):
    folder = tmp_path_factory.mktemp("values")
    summary = write_run(folder / "run", layers=LAYERS, experts=EXPERTS, attention=True, dead=(2,))
    analysis = write_analysis(folder / "analysis", layers=LAYERS, experts=EXPERTS)
    return summary, analysis, write_page(folder / "page.html", folder / "run", folder / "analysis")


@pytest.fixture(scope="module")
def opened(made, open_shared_page):
    return open_shared_page(made[2])


def layers_of(made) -> list[dict]:
    return list(made[0]["components"]["language_model"].values())


def attention_of(made) -> list[dict]:
    return list(made[0]["attention"]["language_model"].values())


def table_of(made, name: str) -> list[dict]:
    columns = made[1]["components"]["language_model"][name]["tables"][name]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("metric", ["load_ratio", "usage", "mean_weight", "mean_prob", "selected_count", "top1_count"])
def test_layer_by_expert(made, opened, metric):
    opened.traces("usage")
    opened.page.locator("#figure-usage").scroll_into_view_if_needed()
    opened.choose("usage", "Show", metric)
    trace = opened.traces("usage")[0]
    values = trace["meta"]["values"] if metric == "load_ratio" else trace["z"]
    assert values == [layer[metric] for layer in layers_of(made)]
    if metric == "load_ratio":  # what is drawn is the logarithm, with a floor
        drawn = np.log2(np.maximum(np.array(values), 1 / 16))
        assert np.allclose(np.array(trace["z"]), drawn, atol=0, rtol=1e-15)


@pytest.mark.parametrize(
    "figure,metrics",
    [
        ("balance", ["load_cv", "max_violation", "gini"]),
        ("entropy", ["entropy_ratio", "margin"]),
        ("z-loss", ["router_z_loss"]),
        ("balance-loss", ["balance_loss"]),
        ("repeat", ["repeat_rate"]),
        ("active", ["active_experts", "underused_experts", "dead_experts"]),
    ],
)
def test_metrics_over_layers(made, opened, figure, metrics):
    traces = opened.traces(figure)
    assert [trace["y"] for trace in traces] == [[layer[metric] for layer in layers_of(made)] for metric in metrics]


def test_pairs(made, opened):
    layer = layers_of(made)[0]
    tokens = opened.traces("coactivation")[0]["meta"]["tokens"]
    for a in range(EXPERTS):
        for b in range(EXPERTS):
            assert tokens[a][b] == (None if a == b else layer["coactivation"][a][b])
    for row in opened.table("coactivation"):
        count = layer["selected_count"]
        assert row["tokens"] == layer["coactivation"][row["expert_a"]][row["expert_b"]]
        expected = count[row["expert_a"]] * count[row["expert_b"]]
        assert row["lift"] == (row["tokens"] * layer["tokens"] / expected if expected else None)


def test_transitions(made, opened):
    counts = np.array(layers_of(made)[0]["transition"])
    rows = counts.sum(axis=1, keepdims=True)
    shares = [[n / total if total else None for n in row] for row, total in zip(counts, rows[:, 0], strict=True)]
    assert opened.traces("transition")[0]["z"] == shares
    bands = opened.table("paths")
    assert sum(row["tokens"] for row in bands) == sum(np.sum(layer["transition"]) for layer in layers_of(made)[:-1])


def test_attention(made, opened):
    layers = attention_of(made)
    assert opened.traces("attention-regions")[0]["z"] == [layer["region_mass"] for layer in layers]
    assert opened.traces("attention-heads")[0]["z"] == [layer["head_entropy"] for layer in layers]
    assert opened.traces("information-flow")[0]["z"] == layers[0]["flow"]
    shown = {trace["name"]: trace["z"] for trace in opened.traces("expert-patterns")}
    mass = layers[0]["experts"]["gate_mass"]
    for expert in np.argsort(-np.array(mass))[:8]:
        assert shown[f"expert {expert}"] == layers[0]["experts"]["pattern"][expert]
    rows = {row["expert"]: row for row in opened.table("region-specialization")}
    for expert, values in enumerate(layers[0]["experts"]["specialization"]):
        assert [rows[expert][name] for name in list(rows[expert])[1:7]] == values
    first = layers[0]["experts"]
    weight, flow = np.array(first["flow_weight"]), np.array(first["flow"])
    to_text = (flow[:, :, 0] * weight).sum(axis=1) / weight.sum(axis=1)
    assert np.allclose(opened.traces("expert-attention")[0]["z"][0], to_text, rtol=1e-12)


def test_what_flows_into_an_expert_flows_out(opened):
    flows = opened.table("sankey-region")
    into, out = {}, {}
    for row in flows:
        side = into if row["to"].startswith("Expert") else out
        expert = row["to"] if side is into else row["from"]
        side[expert] = side.get(expert, 0) + row["gate_weight"]
    assert into.keys() == out.keys()
    assert all(abs(into[expert] - out[expert]) < 1e-9 * into[expert] for expert in into)


@pytest.mark.parametrize(
    "figure,table",
    [
        ("importance", "expert_usage"),
        ("role-shift", "layer_changes"),
        ("evolution-sankey", "expert_transitions"),
        ("imbalance", "imbalance"),
        ("predictability", "predictability"),
        ("alignment", "alignment"),
    ],
)
def test_tables_of_an_analysis(made, opened, figure, table):
    expected = table_of(made, table)
    shown = opened.table(figure)
    names = [name for name in shown[0] if name in expected[0]]
    assert len(names) >= 4
    assert [{name: row[name] for name in names} for row in shown] == [
        {name: row[name] for name in names} for row in expected
    ]


@pytest.mark.parametrize(
    "figure,table,key",
    [
        ("expert-cache", "expert_cache", "lru"),
        ("placement", "placement", "imbalance_run"),
        ("matching", "matching", "similarity"),
    ],
)
def test_tables_of_one_layer(made, opened, figure, table, key):
    expected = [row[key] for row in table_of(made, table) if row["layer"] == "0"]
    assert [row[key] for row in opened.table(figure)] == expected


def test_drawn_values_of_an_analysis(made, opened):
    drawn = {trace["name"]: trace["y"] for trace in opened.traces("expert-cache")}
    rows = [row for row in table_of(made, "expert_cache") if row["layer"] == "0"]
    assert drawn["least recently used"] == [row["lru"] for row in rows]
    assert drawn["best possible"] == [row["optimal"] for row in rows]
    usage = [row for row in table_of(made, "group_usage") if row["layer"] == "0"]
    flat = [value for row in opened.traces("categories")[0]["z"] for value in row]
    assert flat == [row["usage"] for row in usage]
    lifts = [
        row["lift"] for row in table_of(made, "token_expert_enrichment") if (row["layer"], row["expert_id"]) == ("0", 0)
    ]
    assert opened.traces("enrichment")[0]["x"] == lifts[::-1]
