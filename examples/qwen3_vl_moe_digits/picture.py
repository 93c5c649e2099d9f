#!/usr/bin/env python3
"""Draws what the demo's run shows, as an SVG file: which experts the tokens of each digit's images chose, a panel a
layer; with --attention how much each layer, and each expert's tokens, attend to the image.

picture.py RUN_DIR -o FILE.svg [--attention]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from report import attention_to_image, expert_shares

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


STYLE = (
    "text{font-family:Helvetica,Arial,sans-serif;text-anchor:middle;fill:#33415c}.title{font-size:13px;font-weight:bold}"
    ".label,.row{font-size:11px}.row{text-anchor:end}.cell{font-size:9px}.caption{font-size:11px}"
)


def svg(width: float, height: float, parts: list[str], caption: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}'
        f'<text x="{width / 2}" y="{height - 8}" class="caption">{caption}</text></svg>\n'
    )


def draw(shares: dict[str, dict[str, list[float]]]) -> str:
    largest = max(value for categories in shares.values() for row in categories.values() for value in row)
    parts, left, rows = [], LEFT, 0
    for layer, categories in shares.items():
        parts += panel(layer, categories, left, largest, label_rows=left == LEFT)
        left += len(next(iter(categories.values()))) * CELL + GAP
        rows = max(rows, len(categories))
    caption = "experts across, images by digit down: % of the selections of an image's and question's tokens"
    return svg(left - GAP + 12, TOP + rows * CELL + 28, parts, caption)


def draw_attention(shares: dict[str, dict]) -> str:
    largest = max(value for layer in shares.values() for value in [layer["layer"], *layer["experts"]] if value)
    width = 0.0
    parts = []
    for row, (layer, values) in enumerate(shares.items()):
        y = TOP + row * CELL
        parts.append(f'<text x="{LEFT - 8}" y="{y + CELL * 0.66}" class="row">layer {layer}</text>')
        for column, share in enumerate([values["layer"], *values["experts"]]):
            x = LEFT + column * CELL + (GAP / 2 if column else 0)
            width = max(width, x + CELL)
            if row == 0:
                label = "all" if column == 0 else column - 1
                parts.append(f'<text x="{x + CELL / 2}" y="{TOP - 8}" class="label">{label}</text>')
            if share is None:
                continue
            ink = "#ffffff" if share > largest * 0.35 else "#33415c"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{colour(share, largest)}"/>'
                f'<text x="{x + CELL / 2 - 0.5}" y="{y + CELL * 0.64}" class="cell" style="fill:{ink}">'
                f"{share * 100:.0f}</text>"
            )
    parts.append(f'<text x="{(LEFT + width) / 2}" y="{TOP - 26}" class="title">attention to the image, %</text>')
    return svg(width + 60, TOP + len(shares) * CELL + 28, parts, "all tokens, then the tokens of each expert")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--task", default="log_metrics")
    parser.add_argument("--attention", action="store_true")
    arguments = parser.parse_args()
    log = arguments.run / f"{arguments.task}.json"
    if not log.is_file():
        print(f"picture: {log} is not there; run scripts/demo first", file=sys.stderr)
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.attention:
        summary = json.loads((arguments.run / "moetap" / "summary.json").read_text())
        arguments.output.write_text(draw_attention(attention_to_image(summary)))
    else:
        arguments.output.write_text(draw(expert_shares(json.loads(log.read_text())["logs"])))
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
