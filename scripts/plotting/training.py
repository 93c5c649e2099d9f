"""The routing dashboard: a training log and an affinity matrix. `moetap report` says what is odd about them."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt

from plotting.page import Page, heatmap, lines
from plotting.tables import Source


def number(value) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def draw(source: Source, page: Page) -> None:
    epochs = source.epochs()
    if epochs:
        curves(epochs, page)
    rows = source.affinity_rows()
    if rows:
        width = max(len(row) for row in rows)
        values = [row + [math.nan] * (width - len(row)) for row in rows]
        figure, axes = plt.subplots(figsize=(8, 6))
        heatmap(axes, values, range(width), range(len(values)), label="Mean router probability", text=True)
        axes.set(title="Router Affinity Matrix", xlabel="Expert", ylabel="Class")
        page.save(figure, "router_affinity_matrix_heatmap.png")


def curves(epochs: list[dict], page: Page) -> None:
    names = [epoch.get("epoch", i + 1) for i, epoch in enumerate(epochs)]
    width = max((len(epoch.get("utilization") or []) for epoch in epochs), default=0)
    shares = [[number(value) for value in epoch.get("utilization") or []] for epoch in epochs]
    # Percent become shares, line by line.
    shares = [[value / 100 for value in row] if math.fsum(v for v in row if v == v) > 50 else row for row in shares]
    shares = [row + [math.nan] * (width - len(row)) for row in shares]
    if width:
        figure, axes = plt.subplots(figsize=(10, 6))
        series = {f"expert {e}": [row[e] * 100 for row in shares] for e in range(width)}
        lines(axes, names, series, x="Epoch", y="Utilization, %")
        page.save(figure, "expert_utilization.png")
        figure, axes = plt.subplots(figsize=(10, 6))
        sums = [math.fsum(row[e] for row in shares if row[e] == row[e]) for e in range(width)]
        axes.bar(range(width), sums)
        axes.set(xlabel="Expert", ylabel="Utilization, summed over epochs", xticks=range(width))
        page.save(figure, "expert_utilization_by_sum.png")
    for key, name, label in (
        ("entropy", "router_entropy", "Entropy, nats"),
        ("routing_acc", "routing_accuracy", "Routing accuracy"),
    ):
        values = [number(epoch.get(key)) for epoch in epochs]
        if any(math.isfinite(value) for value in values):
            figure, axes = plt.subplots(figsize=(10, 6))
            lines(axes, names, {label: values}, x="Epoch", y=label)
            page.save(figure, f"{name}.png")
