"""Usage and balance: layers and experts, one layer's top experts, residues."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from plotting.page import Page, heatmap, lines
from plotting.tables import Source


def draw(source: Source, page: Page) -> None:
    layers = {name: layer for name, layer in source.layers().items() if layer.get("usage")}
    if layers:
        width = max(len(layer["usage"]) for layer in layers.values())
        values = [layer["usage"] + [float("nan")] * (width - len(layer["usage"])) for layer in layers.values()]
        figure, axes = plt.subplots(figsize=(max(6, width * 0.18), max(3, len(layers) * 0.22)))
        heatmap(axes, values, range(width), list(layers), colors="viridis", label="Selections a token")
        axes.set(title="Expert usage", xlabel="Expert", ylabel="Layer")
        page.save(figure, "expert_usage_heatmap.png")
    bars = source.rows("expert_usage_bar")
    if bars:
        figure, axes = plt.subplots(figsize=(12, 6))
        drawn = axes.bar(range(len(bars)), [row["usage"] for row in bars], color="skyblue")
        axes.bar_label(drawn, [f"Expert {row['expert_id']}" for row in bars], rotation=45, padding=3)
        axes.set(title=f"Top-{len(bars)} Expert Usage", xlabel="Top Experts", ylabel="Usage Score", xticks=[])
        axes.margins(y=0.15)
        page.save(figure, "expert_usage_bar.svg")
    statistics = source.rows("layer_statistics")
    if statistics:
        summary(statistics, page)
    for name in ("positive", "negative"):
        rows = source.rows(f"aa_correlation_{name}")
        if rows:
            residues(rows, name, page)


def summary(rows: list[dict], page: Page) -> None:
    figure, all_axes = plt.subplots(2, 2, figsize=(16, 12))
    layers = [row["layer"] for row in rows]
    lines(all_axes[0][0], layers, {"active": [row["active_experts"] for row in rows]}, x="Layer", y="Active experts")
    lines(all_axes[0][1], layers, {"entropy": [row["entropy_ratio"] for row in rows]}, x="Layer", y="Entropy ratio")
    all_axes[0][1].set_ylim(0, 1)
    # The id is a name, not a height: it stands over the bar of the share.
    bars = all_axes[1][0].bar(range(len(rows)), [row["max_expert_ratio"] for row in rows], color="tab:purple")
    all_axes[1][0].bar_label(bars, [str(row["max_expert"]) for row in rows], padding=2)
    all_axes[1][0].set(ylim=(0, 1), xlabel="Layer", ylabel="Share of the most active expert (its id above)")
    all_axes[1][0].set_xticks(range(len(rows)), [str(layer) for layer in layers])
    entropy = {"entropy": [row["entropy"] for row in rows]}
    lines(all_axes[1][1], layers, entropy, x="Layer", y="Entropy, bits")
    figure.suptitle("MoE Information Flow Analysis Summary", fontsize=16)
    page.save(figure, "info_flow/moe_information_flow_summary.pdf")


def residues(rows: list[dict], name: str, page: Page) -> None:
    letters = [row["residue"] for row in rows]
    values = np.array([[row[letter] for letter in letters] for row in rows], dtype=float)
    colors, scale = plt.get_cmap("coolwarm"), plt.Normalize(-0.4, 0.4)
    figure, axes = plt.subplots(figsize=(10, 9))
    for i, letter in enumerate(letters):
        axes.text(i, i, letter, color="red", fontsize=15, fontweight="bold", ha="center", va="center")
        for j in range(len(letters)):
            value = values[i, j]
            if not np.isfinite(value) or i == j:
                continue
            if j > i and abs(value) > 0.01:
                axes.scatter(
                    j, i, s=800 * abs(value), color=colors(scale(value)), alpha=0.8, edgecolors="black", linewidths=0.5
                )
            elif j < i:
                axes.text(j, i, f"{value:.2f}", fontsize=10, ha="center", va="center", color="0.25")
    axes.set(xlim=(-0.5, len(letters) - 0.5), ylim=(len(letters) - 0.5, -0.5))
    axes.set_xticks(range(len(letters)), letters, fontsize=13)
    axes.set_yticks(range(len(letters)), letters, fontsize=13)
    axes.set_title(f"Amino Acid Correlation ({name.capitalize()}, Beauty)", fontsize=16)
    bar = plt.cm.ScalarMappable(norm=scale, cmap=colors)
    figure.colorbar(bar, ax=axes, orientation="horizontal", label="Correlation", shrink=0.7, pad=0.08)
    page.save(figure, f"{name}_aa_correlation_beauty.svg")
