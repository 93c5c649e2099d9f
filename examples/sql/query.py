#!/usr/bin/env python3
"""Runs one of the queries beside this file over a Parquet export and prints its rows as CSV.

query.py usage.sql EXPORT [--component language_model] [--samples SAMPLES.jsonl] [--other EXPORT]
"""

import argparse
import csv
import sys
from pathlib import Path

import duckdb


def layer_files(export: Path, component: str) -> str:
    """The tables of the layers, without the table of all layers (ids/) beside them."""
    return str(export / f"component={component}" / "layer=*" / "*.parquet")


def run(query: Path, export: Path, component: str, samples: Path | None = None, other: Path | None = None):
    connection = duckdb.connect()
    connection.execute("SET VARIABLE files = ?", [layer_files(export, component)])
    if samples:
        connection.execute("SET VARIABLE samples = ?", [str(samples)])
    if other:
        connection.execute("SET VARIABLE others = ?", [layer_files(other, component)])
    return connection.execute(query.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("--component", default="language_model")
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--other", type=Path)
    arguments = parser.parse_args()
    path = arguments.query if arguments.query.exists() else Path(__file__).parent / arguments.query
    rows = run(path, arguments.export, arguments.component, arguments.samples, arguments.other)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column[0] for column in rows.description])
    writer.writerows(rows.fetchall())
