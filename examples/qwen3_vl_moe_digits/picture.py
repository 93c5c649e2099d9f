#!/usr/bin/env python3
"""Draws which experts the tokens of each digit's images chose, a panel a layer, as an SVG file.

picture.py RUN_DIR -o FILE.svg
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from report import expert_shares

CELL, LEFT, TOP, GAP = 26, 62, 58, 34
# Light to dark blue: readable in print and for colour-blind readers.
LIGHT, DARK = (239, 243, 250), (8, 48, 107)


def colour(share: float, largest: float) -> str:
    place = share / largest if largest else 0.0
    return "#" + "".join(f"{round(a + (b - a) * place):02x}" for a, b in zip(LIGHT, DARK, strict=True))


def panel(layer: str, categories: dict[str, list[float]], left: int, largest: float, label_rows: bool) -> list[str]:
    experts = len(next(iter(categories.values())))
    middle = left + experts * CELL / 2
    parts = [f'<text x="{middle}" y="{TOP - 26}" class="title">layer {layer}</text>']
    for expert in range(experts):
        parts.append(f'<text x="{left + (expert + 0.5) * CELL}" y="{TOP - 8}" class="label">{expert}</text>')
    for row, (category, shares) in enumerate(categories.items()):
        y = TOP + row * CELL
        if label_rows:
            parts.append(f'<text x="{left - 8}" y="{y + CELL * 0.66}" class="row">{category}</text>')
        for expert, share in enumerate(shares):
            ink = "#ffffff" if share > largest * 0.55 else "#33415c"
            x, middle = left + expert * CELL, left + (expert + 0.5) * CELL - 0.5
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{colour(share, largest)}"/>'
                f'<text x="{middle}" y="{y + CELL * 0.64}" class="cell" style="fill:{ink}">{share * 100:.0f}</text>'
            )
    return parts


def draw(shares: dict[str, dict[str, list[float]]]) -> str:
    largest = max(value for categories in shares.values() for row in categories.values() for value in row)
    parts, left, rows = [], LEFT, 0
    for layer, categories in shares.items():
        parts += panel(layer, categories, left, largest, label_rows=left == LEFT)
        left += len(next(iter(categories.values()))) * CELL + GAP
        rows = max(rows, len(categories))
    width, height = left - GAP + 12, TOP + rows * CELL + 28
    caption = "experts across, images by digit down: % of the selections of an image's and question's tokens"
    style = (
        "text{font-family:Helvetica,Arial,sans-serif;text-anchor:middle;fill:#33415c}.title{font-size:13px;font-weight:bold}"
        ".label,.row{font-size:11px}.row{text-anchor:end}.cell{font-size:9px}.caption{font-size:11px}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}'
        f'<text x="{width / 2}" y="{height - 8}" class="caption">{caption}</text></svg>\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--task", default="log_metrics")
    arguments = parser.parse_args()
    log = arguments.run / f"{arguments.task}.json"
    if not log.is_file():
        print(f"picture: {log} is not there; run scripts/demo first", file=sys.stderr)
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(draw(expert_shares(json.loads(log.read_text())["logs"])))
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
