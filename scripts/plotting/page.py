"""Where pictures go, and what most of them share."""

from __future__ import annotations

import pathlib

import matplotlib.pyplot as plt
import numpy as np


class Page:
    def __init__(self, folder: pathlib.Path, form: str | None) -> None:
        self.folder, self.form = folder, form
        self.written: list[pathlib.Path] = []

    def save(self, figure, name: str) -> None:
        """`name`: with the ending that the figure has by custom."""
        path = self.folder / name
        if self.form:
            path = path.with_suffix(f".{self.form}")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, bbox_inches="tight", metadata={"Date": None} if path.suffix != ".png" else None)
        plt.close(figure)
        self.written.append(path)


def heatmap(axes, values, xs, ys, *, colors="YlGnBu", label="", text=False, **limits):
    """Draws values [ys][xs] with names, a bar, and the numbers where asked for and few. NaN stays blank."""
    data = np.array(values, dtype=float)
    image = axes.imshow(data, cmap=colors, aspect="auto", interpolation="none", **limits)
    axes.figure.colorbar(image, ax=axes, label=label)
    for axis, names in ((axes.xaxis, xs), (axes.yaxis, ys)):
        step = max(1, len(names) // 32)
        axis.set_ticks(range(0, len(names), step), [str(name) for name in names[::step]])
    if text and data.size <= 400:
        middle = (image.norm.vmin + image.norm.vmax) / 2
        for y, x in np.argwhere(np.isfinite(data)):
            ink = "white" if data[y, x] > middle else "black"
            axes.text(x, y, f"{data[y, x]:.2f}", ha="center", va="center", fontsize=8, color=ink)
    return image


def lines(axes, xs, series: dict[str, list[float]], *, x: str, y: str) -> None:
    """A line a series, told apart by marks and dashes as well as by colour."""
    marks, dashes = "os^Dvx*P", ["-", "--", ":", "-."]
    for i, (name, values) in enumerate(series.items()):
        mark = marks[i % len(marks)] if len(xs) <= 40 else None
        axes.plot(range(len(xs)), values, label=name, marker=mark, linestyle=dashes[i % len(dashes)])
    step = max(1, -(-len(xs) // 20))  # more names would run into each other
    axes.set_xticks(range(0, len(xs), step), [str(name) for name in xs[::step]])
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend(fontsize=8, ncols=max(1, len(series) // 8))
