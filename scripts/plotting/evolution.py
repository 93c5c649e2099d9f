"""Experts over the layers: distributions, role shifts, stability, transitions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from plotting.page import Page, heatmap
from plotting.tables import Source, by_layer, matrix

BLUES = LinearSegmentedColormap.from_list(
    "share", [(0, "#f7fbff"), (0.2, "#deebf7"), (0.4, "#c6dbef"), (0.6, "#9ecae1"), (0.8, "#6baed6"), (1, "#08519c")]
)


def draw(source: Source, page: Page) -> None:
    usage = source.rows("expert_usage")
    if usage:
        distribution(usage, source.rows("top_experts"), page)
    changes = source.rows("layer_changes")
    if changes:
        role_shift(changes, page)
    stable = source.rows("expert_stability") or source.rows("expert_evolution_stats")
    if stable:
        stability(stable, page)
    for layer, rows in by_layer(source.rows("expert_transitions"), "from_layer").items():
        transition(rows, layer, page)


def distribution(rows: list[dict], top: list[dict], page: Page) -> None:
    figure, all_axes = plt.subplots(2, 1, figsize=(14, 10))
    for axes, key in zip(all_axes, ("usage", "importance"), strict=True):
        layers, experts, values = matrix(rows, "layer", "expert_id", key)
        heatmap(
            axes,
            values,
            experts,
            [f"Layer {layer}" for layer in layers],
            colors=BLUES,
            label=f"Normalized {key.capitalize()}",
        )
        axes.set_xlabel("Expert ID")
    places = {layer: i for i, layer in enumerate(layers)}
    for row in top:
        corner = (experts.index(row["expert_id"]) - 0.5, places[row["layer"]] - 0.5)
        all_axes[1].add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2))
    figure.tight_layout()
    page.save(figure, "expert_evolution/expert_distribution_across_layers.pdf")


def role_shift(rows: list[dict], page: Page) -> None:
    figure, axes = plt.subplots(figsize=(12, 6))
    steps = range(len(rows))
    for key, mark, color, above in (("usage", "o", "#1f77b4", 8), ("importance", "s", "#ff7f0e", -16)):
        values = [row[f"change_{key}"] for row in rows]
        axes.plot(steps, values, marker=mark, color=color, label=f"{key.capitalize()} Change")
        for x, value in zip(steps, values, strict=True):
            place = {"xytext": (0, above), "textcoords": "offset points"}
            axes.annotate(f"{value:.2f}", (x, value), ha="center", fontsize=9, color=color, **place)
    axes.set_xticks(steps, [f"Layer {row['from_layer']} -> {row['to_layer']}" for row in rows])
    axes.set(ylabel="Distribution Change (L1 Distance)", title="Expert Role Shift Between Consecutive Layers")
    axes.margins(y=0.15)
    axes.legend()
    page.save(figure, "expert_evolution/expert_role_shift_between_layers.pdf")


def stability(rows: list[dict], page: Page) -> None:
    rows = sorted((row for row in rows if row["stability"] == row["stability"]), key=lambda row: -row["stability"])
    figure, axes = plt.subplots(figsize=(14, 7))
    values = [row["stability"] for row in rows]
    bars = axes.bar(range(len(rows)), values, color=plt.cm.viridis(np.array(values)))
    labels = [f"{value:.2f}" if value > 0.5 else "" for value in values]
    axes.bar_label(bars, labels, fontweight="bold")
    axes.set_xticks(range(len(rows)), [f"E{row['expert_id']}" for row in rows], rotation=90)
    axes.set(ylabel="Normalized Stability Score", title="Expert Stability Across Layers")
    page.save(figure, "expert_evolution/expert_stability_across_layers.pdf")


def transition(rows: list[dict], layer, page: Page) -> None:
    following = rows[0]["to_layer"]
    experts = range(1 + max(max(row["from_expert"], row["to_expert"]) for row in rows))
    values = np.full((len(experts), len(experts)), np.nan)
    for row in rows:
        if row["probability"] >= 0.05:
            values[row["from_expert"], row["to_expert"]] = row["probability"]
    figure, axes = plt.subplots(figsize=(12, 10))
    names = [f"E{expert}" for expert in experts]
    heatmap(axes, values, names, names, label="Transition Probability", text=True)
    axes.set(title=f"Layer {layer} to Layer {following}", xlabel=f"Layer {following}", ylabel=f"Layer {layer}")
    page.save(figure, f"expert_evolution/expert_transition_layer{layer}_to_layer{following}.pdf")
