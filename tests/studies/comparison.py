"""Tables of the program and of the oracle, side by side."""

import csv
import math
from pathlib import Path

RELATIVE = 1e-9
ABSOLUTE = 1e-12  # of differences of numbers near 1


def rows_of(tables: dict, name: str) -> list[tuple]:
    return list(zip(*tables[name].values(), strict=True))


def read_table(path: Path) -> dict[str, list[str]]:
    """Cells as text. Lines end in a line feed alone, and none is longer or shorter than the header."""
    text = path.read_bytes().decode()
    assert text.endswith("\n") and "\r" not in text, path
    header, *rows = csv.reader(text.splitlines())
    assert all(len(row) == len(header) for row in rows), path
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def read_tables(folder: Path) -> dict[str, dict[str, list[str]]]:
    return {path.stem: read_table(path) for path in sorted(folder.glob("*.csv"))}


def same(got: str, expected) -> bool:
    """A cell against a value; undefined is empty, and a text may stand for itself only."""
    if expected is None or (isinstance(expected, float) and math.isnan(expected)):
        return got == ""
    if isinstance(expected, str):
        return got == expected
    if got == "":
        return False
    if not isinstance(expected, float):  # an integer is written as one
        return got == str(int(expected))
    return math.isclose(float(got), float(expected), rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def differences(name: str, got: dict[str, list[str]], expected: dict[str, list], limit: int = 5) -> list[str]:
    """One line each; none if the tables agree in columns, rows and order."""
    if list(got) != list(expected):
        return [f"{name}: columns {list(got)}, expected {list(expected)}"]
    got_rows, rows = list(zip(*got.values(), strict=True)), list(zip(*expected.values(), strict=True))
    found = [] if len(got_rows) == len(rows) else [f"{name}: {len(got_rows)} rows, expected {len(rows)}"]
    for number, (line, values) in enumerate(zip(got_rows, rows, strict=False)):
        for column, cell, value in zip(expected, line, values, strict=True):
            if not same(cell, value):
                found.append(f"{name} row {number} {column}: got {cell!r}, expected {value!r}; row {line}")
                break
        if len(found) >= limit:
            break
    return found


def assert_tables(got: dict[str, dict[str, list[str]]], expected: dict[str, dict[str, list]]) -> None:
    """Every expected table is there and agrees."""
    found = []
    for name, table in expected.items():
        found += differences(name, got[name], table) if name in got else [f"{name}: no such table"]
    assert not found, "\n".join(found)
