"""What the figures are drawn from: tables of analysis.json, layers of summary.json, lines of a training log."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from typing import Any

Row = dict[str, Any]
# The component of the studies of FASTA files.
SEQUENCES = "sequences"


class Source:
    def __init__(
        self,
        folders: list[pathlib.Path],
        component: str | None,
        training_log: pathlib.Path | None,
        affinity: pathlib.Path | None,
    ) -> None:
        self.analysis: dict | None = None
        self.summary: dict | None = None
        self.training_log, self.affinity = training_log, affinity
        for folder in folders:
            known = False
            for name, place in (("analysis", "analysis.json"), ("summary", "moetap/summary.json")):
                if (folder / place).is_file():
                    setattr(self, name, json.loads((folder / place).read_text(encoding="utf-8")))
                    known = True
            for name, place in (("training_log", "training_log.txt"), ("affinity", "router_affinity_matrix.csv")):
                if getattr(self, name) is None and (folder / place).is_file():
                    setattr(self, name, folder / place)
                    known = True
            if not known:
                raise ValueError(f"{folder}: holds no analysis, no run and no training log")
        names = list((self.summary or {}).get("components", {})) + list((self.analysis or {}).get("components", {}))
        if component is not None and component not in names:
            raise ValueError(f"--component {component}: there is none of that name; there are {', '.join(names)}")
        of_models = [name for name in names if name != SEQUENCES]
        self.component = component or next(iter(of_models + names), "")

    def rows(self, table: str) -> list[Row]:
        """The rows of a study's table; none where it is not there. Undefined cells are NaN."""
        components = (self.analysis or {}).get("components", {})
        # Sequences belong to no component of a model: theirs are drawn with any.
        studies = {**components.get(SEQUENCES, {}), **components.get(self.component, {})}
        for study in studies.values():
            columns = study["tables"].get(table)
            if columns:
                cells = [[math.nan if cell is None else cell for cell in column] for column in columns.values()]
                return [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
        return []

    def layers(self) -> dict[str, dict]:
        """The routers of the run, by layer id."""
        return (self.summary or {}).get("components", {}).get(self.component, {})

    def attention(self) -> dict[str, dict]:
        return (self.summary or {}).get("attention", {}).get(self.component, {})

    def epochs(self) -> list[Row]:
        """The lines of the training log that are objects."""
        if self.training_log is None:
            return []
        found = []
        for line in self.training_log.read_text(encoding="utf-8").splitlines():
            try:
                epoch = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(epoch, dict):
                found.append(epoch)
        return found

    def affinity_rows(self) -> list[list[float]]:
        """The rows of the affinity matrix that are numbers."""
        if self.affinity is None:
            return []
        rows = []
        with self.affinity.open(newline="", encoding="utf-8") as file:
            for cells in csv.reader(file):
                try:
                    rows.append([float(cell) for cell in cells])
                except ValueError:
                    continue
        return [row for row in rows if row]


def by_layer(rows: list[Row], column: str = "layer") -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def matrix(rows: list[Row], row_key: str, column_key: str, value: str) -> tuple[list, list, list[list[float]]]:
    """Names of rows and columns, and the values; NaN where there is none."""
    ys = list(dict.fromkeys(row[row_key] for row in rows))
    xs = sorted({row[column_key] for row in rows})
    place_y, place_x = {y: i for i, y in enumerate(ys)}, {x: i for i, x in enumerate(xs)}
    values = [[math.nan] * len(xs) for _ in ys]
    for row in rows:
        values[place_y[row[row_key]]][place_x[row[column_key]]] = row[value]
    return ys, xs, values
