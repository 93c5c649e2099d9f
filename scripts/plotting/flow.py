"""Attention by expert: patterns, flow between regions, specialisation, cooperation."""

from __future__ import annotations

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

from plotting.page import Page, heatmap
from plotting.tables import Source, by_layer

REGIONS = ("Diagonal", "Long Range", "N-terminal", "C-terminal", "N-to-C", "C-to-N")
PATTERN_COLORS = LinearSegmentedColormap.from_list(
    "pattern", [(0, "white"), (0.3, "#ffffcc"), (0.6, "#a1dab4"), (0.8, "#41b6c4"), (1, "#225ea8")]
)


def draw(source: Source, page: Page) -> None:
    for number, (_, layer) in enumerate(source.attention().items(), start=1):
        experts = layer.get("experts")
        if isinstance(experts, dict) and experts.get("pattern"):
            patterns(experts, number, page)
    mass = {(row["layer"], row["expert_id"]): row["gate_mass"] for row in source.rows("expert_attention_summary")}
    for layer, rows in by_layer(source.rows("information_flow")).items():
        information_flow(rows, layer, mass, page)
    for layer, rows in by_layer(source.rows("region_specialization")).items():
        specialization(rows, layer, page)
    for layer, rows in by_layer(source.rows("expert_cooperation")).items():
        cooperation(rows, layer, page)


def patterns(experts: dict, layer: int, page: Page) -> None:
    mass = np.array(experts["gate_mass"], dtype=float)
    chosen = [e for e in np.argsort(-mass, kind="stable")[:10] if mass[e] > 0]
    values = {e: np.array(experts["pattern"][e], dtype=float) for e in chosen}
    most = max((np.nanmax(value) for value in values.values()), default=1)
    columns = min(5, len(chosen))
    figure, all_axes = plt.subplots(-(-len(chosen) // columns), columns, figsize=(18, 7), squeeze=False)
    for axes in all_axes.flat[len(chosen) :]:
        axes.remove()
    for axes, expert in zip(all_axes.flat, chosen, strict=False):
        image = axes.imshow(values[expert], cmap=PATTERN_COLORS, vmin=0, vmax=most, interpolation="none")
        axes.set(title=f"Expert {expert}\nshare of the gate: {mass[expert] / mass.sum():.3f}", xticks=[], yticks=[])
        axes.set(xlabel="Key", ylabel="Query")
    figure.colorbar(image, ax=list(all_axes.flat[: len(chosen)]), label="Attention Weight")
    page.save(figure, f"info_flow/expert_attention_patterns_layer{layer}_top10.pdf")


def information_flow(rows: list[dict], layer, mass: dict, page: Page) -> None:
    experts = by_layer(rows, "expert_id")
    weight = {e: mass.get((layer, e), sum(row["weight"] for row in own)) for e, own in experts.items()}
    chosen = sorted(experts, key=lambda e: (-weight[e], e))[:8]
    columns = min(4, len(chosen))
    figure, all_axes = plt.subplots(-(-len(chosen) // columns), columns, figsize=(16, 7), squeeze=False)
    for axes in all_axes.flat[len(chosen) :]:
        axes.remove()
    for axes, expert in zip(all_axes.flat, chosen, strict=False):
        own = experts[expert]
        froms, tos = (sorted({row[key] for row in own}) for key in ("from_region", "to_region"))
        values = np.full((len(froms), len(tos)), np.nan)
        for row in own:
            values[froms.index(row["from_region"]), tos.index(row["to_region"])] = row["share"]
        heatmap(axes, values, tos, froms, label="Normalized Flow Strength", text=True, vmin=0, vmax=1)
        axes.set(title=f"Expert {expert}", xlabel="To Region", ylabel="From Region")
    figure.tight_layout()
    page.save(figure, f"info_flow/expert_information_flow_layer{layer}_top8.pdf")


def specialization(rows: list[dict], layer, page: Page) -> None:
    columns = [name for name in rows[0] if name not in ("component", "layer", "expert_id", "span")]
    chosen = sorted((row for row in rows if row["span"] == row["span"]), key=lambda row: -row["span"])[:10]
    if not chosen:
        return
    values = np.array([[row[name] for name in columns] for row in chosen], dtype=float)
    figure, axes = plt.subplots(figsize=(12, 8))
    logs = np.log2(np.maximum(values, 2.0**-4))
    norm = TwoSlopeNorm(0, min(-0.01, np.nanmin(logs)), max(0.01, np.nanmax(logs)))
    image = axes.imshow(logs, cmap="PuOr_r", norm=norm, aspect="auto", interpolation="none")
    figure.colorbar(image, ax=axes, label="log2 of times even")
    for y, x in np.argwhere(np.isfinite(values)):
        ink = "white" if abs(norm(logs[y, x]) - 0.5) > 0.3 else "black"
        axes.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", color=ink)
    axes.set_xticks(range(len(columns)), REGIONS if len(columns) == len(REGIONS) else columns)
    axes.set_yticks(range(len(chosen)), [str(row["expert_id"]) for row in chosen])
    axes.set(
        title=f"Layer {layer} Expert Attention Region Specialization", xlabel="Attention Region", ylabel="Expert ID"
    )
    page.save(figure, f"info_flow/expert_attention_specialization_layer{layer}.pdf")


def cooperation(rows: list[dict], layer, page: Page) -> None:
    """On a circle: places say nothing. Pairs with more than 2 % of the layer's strength."""
    graph = nx.Graph()
    graph.add_nodes_from(sorted({row[key] for row in rows for key in ("expert_a", "expert_b")}))
    graph.add_weighted_edges_from(
        (row["expert_a"], row["expert_b"], row["share"]) for row in rows if row["share"] > 0.02
    )
    figure, axes = plt.subplots(figsize=(12, 10))
    place = nx.circular_layout(graph)
    shares = [share for _, _, share in graph.edges.data("weight")]
    centrality = nx.degree_centrality(graph) if len(graph) > 1 else dict.fromkeys(graph, 0)
    most = max(shares, default=1)
    edges = {"width": [8 * share / most for share in shares], "edge_color": shares, "edge_cmap": plt.cm.Blues}
    nx.draw_networkx_edges(graph, place, ax=axes, alpha=0.7, edge_vmin=0, **edges)
    sizes = [300 * (1 + centrality[node]) for node in graph]
    nx.draw_networkx_nodes(graph, place, ax=axes, node_size=sizes, node_color=list(centrality.values()), cmap="viridis")
    for node, (x, y) in place.items():
        side = "left" if x > 0.1 else "right" if x < -0.1 else "center"  # outside the circle, not over the node
        axes.text(x * 1.08, y * 1.08, f"Expert {node}", ha=side, va="center", fontsize=10)
    axes.set_title(f"Layer {layer} Expert Cooperation Network")
    axes.margins(0.15)
    axes.axis("off")
    page.save(figure, f"info_flow/expert_cooperation_network_layer{layer}.pdf")
