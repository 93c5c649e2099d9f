#!/usr/bin/env python3
"""Static pictures of an analysis, a run and a training log, for papers: the figures that the notebook, EasySteer and
the routing dashboard name, under their names, with the numbers of the files.

  plots.py [ANALYSIS_DIR] [RUN_DIR] -o OUT_DIR [--format png|svg|pdf] [--training-log FILE] [--affinity CSV]

Needs Matplotlib and networkx, which scripts/setup installs. Figures without data are left out. Prints the files it
wrote. Exit status: 0 done, 1 nothing to draw or a file cannot be read, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, help="an analysis, a run; in any order")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--format", choices=["png", "svg", "pdf"], help="default: that of each figure's name")
    parser.add_argument("--training-log", type=pathlib.Path)
    parser.add_argument("--affinity", type=pathlib.Path)
    parser.add_argument("--component", help="default: the first of a model or of arrays")
    return parser.parse_args()


def main() -> int:
    options = parse()
    try:
        import matplotlib

        matplotlib.use("Agg")
        import networkx  # noqa: F401
    except ImportError as error:
        print(f"plots: {error.name} is missing: pip install matplotlib networkx", file=sys.stderr)
        return 1
    from plotting import evolution, flow, training, usage
    from plotting.page import Page
    from plotting.tables import Source

    try:
        source = Source(options.folders, options.component, options.training_log, options.affinity)
        page = Page(options.output, options.format)
        for family in (usage, flow, evolution, training):
            family.draw(source, page)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        print(f"plots: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for path in page.written:
        print(path)
    if not page.written:
        print("plots: nothing to draw: give an analysis, a run or a training log", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
