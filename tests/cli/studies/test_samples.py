"""A samples file with blank lines means what it meant to the recording, in every command that reads it."""

import json
import re

import pytest
from conftest import read_table
from synthetic_dump import columns_of, routed, write_run, write_shard

CATEGORIES = ["cat", "dog", "cow"]
LENGTH = 4


@pytest.fixture
def run(tmp_path):
    dump = write_run(tmp_path / "run", ["0"], dump="full")
    samples = [sample for sample in range(3) for _ in range(LENGTH)]
    columns = columns_of(samples, list(range(LENGTH)) * 3, samples)
    write_shard(dump, "language_model", 0, 0, columns | routed("0", 3 * LENGTH, seed=0, full=True))
    file = tmp_path / "samples.jsonl"
    lines = [json.dumps({"doc": {"category": name}, "target": name}) for name in CATEGORIES]
    file.write_text("\n" + lines[0] + "\n \t\n" + lines[1] + "\n\r\n" + lines[2] + "\n\n")
    manifest = tmp_path / "run/moetap/manifest.json"
    about = json.loads(manifest.read_text())
    about["config"]["samples"] = str(file)
    manifest.write_text(json.dumps(about))
    return tmp_path / "run"


def test_groups(analyze, run):
    table = read_table(analyze(run, "--only", "groups", "--group-by", "category", "--draws", "1") / "group_usage.csv")
    assert {(group, tokens) for group, tokens in zip(table["group"], table["samples"], strict=True)} == {
        (name, "1") for name in CATEGORIES
    }


def test_affinity(moetap, run, tmp_path):
    done = moetap("export", run, "--to", "training-log", "-o", tmp_path / "log")
    assert done.returncode == 0 and "rows are cat, cow, dog" in done.stdout
    assert len((tmp_path / "log/router_affinity_matrix.csv").read_text().splitlines()) == 3


def test_page(moetap, run, tmp_path):
    assert moetap("report", run, "-o", tmp_path / "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r'"sample": ?(\d).*?"category": ?"(\w+)"', page)[:3] == [
        (str(sample), name) for sample, name in enumerate(CATEGORIES)
    ]


def test_a_damaged_file_is_said(moetap, run, tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"doc": 3}\n')
    done = moetap("report", run, "-o", tmp_path / "page.html")
    assert done.returncode == 0 and "samples.jsonl: line 1" in done.stderr
    done = moetap("export", run, "--to", "training-log", "-o", tmp_path / "log")
    assert done.returncode == 1 and "samples.jsonl: line 1" in done.stderr


def test_ranks_with_other_samples_are_refused(moetap, tmp_path):
    run = tmp_path / "run"
    write_run(run, ["0"], ranks=2)
    for rank, about in enumerate([run / "moetap", run / "moetap/rank1"]):
        file = tmp_path / f"samples{rank}.jsonl"
        file.write_text(json.dumps({"doc": {"category": f"of rank {rank}"}}) + "\n")
        manifest = json.loads((about / "manifest.json").read_text())
        manifest["config"]["samples"] = str(file)
        (about / "manifest.json").write_text(json.dumps(manifest))
        samples = [rank] * LENGTH
        columns = columns_of(samples, list(range(LENGTH)), samples)
        write_shard(
            run / f"moetap/dump/rank{rank}", "language_model", rank, 0, columns | routed("0", LENGTH, seed=rank)
        )
    done = moetap("analyze", run, "--only", "groups", "--group-by", "category", "-o", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "different samples files" in done.stderr and "samples0.jsonl" in done.stderr
    done = moetap("export", run, "--to", "training-log", "-o", tmp_path / "log")
    assert done.returncode == 1 and "different samples files" in done.stderr
    both = ["--samples", tmp_path / "samples0.jsonl"]  # one that is named holds for all
    done = moetap("analyze", run, "--only", "groups", "--group-by", "category", "-o", tmp_path / "out", *both)
    assert done.returncode == 0, done.stderr
