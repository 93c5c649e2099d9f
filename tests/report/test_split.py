"""--split writes the figures that the page draws, each as a page of its own."""

from __future__ import annotations

import json

import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run


def whole(folder):
    write_run(folder / "a", attention=True)
    write_run(folder / "b", seed=4)
    write_analysis(folder / "analysis")
    log = {"epoch": 1, "routing_acc": 0.5, "entropy": 1.0, "lr": 0.1, "utilization": [0.5, 0.5]}
    (folder / "training_log.txt").write_text(json.dumps(log) + "\n\n")
    return [folder / "a", folder / "b", folder / "analysis", "--training-log", folder / "training_log.txt"]


def run_only(folder):
    write_run(folder / "a", layers=14, experts=4, top_k=1)
    return [folder / "a"]


def analysis_only(folder):
    write_analysis(folder / "analysis")
    return [folder / "analysis"]


@pytest.mark.parametrize("inputs", [whole, run_only, analysis_only], ids=lambda inputs: inputs.__name__)
def test_split_writes_the_figures_of_the_page(open_page, write_page, tmp_path, inputs):
    page = write_page(tmp_path / "page.html", *inputs(tmp_path), "--split", tmp_path / "split")
    opened = open_page(page)
    expected = opened.page.evaluate("moetap.page.cards.map((card) => card.figure.file)")
    written = sorted(path.name for path in (tmp_path / "split").iterdir())
    assert written == sorted(f"{name}.html" for name in expected)
    for name in written[:2]:
        alone = open_page(tmp_path / "split" / name)
        assert [
            f"{file}.html" for file in alone.page.evaluate("moetap.page.cards.map((card) => card.figure.file)")
        ] == [name]
        assert alone.traces(alone.ids()[0])
