"""The command: what it takes, refuses and leaves."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))


def data_of(page: pathlib.Path) -> dict:
    return json.loads(page.read_text().split('type="application/json">', 1)[1].split("</script>", 1)[0])


def fails(done: subprocess.CompletedProcess, status: int, *parts: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("moetap: report: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_refusals(report, tmp_path):
    page = tmp_path / "page.html"
    fails(report("-o", page), 2, "names nothing to show")
    fails(report(tmp_path / "nowhere", "-o", page), 1, "there is no such file or folder")
    (tmp_path / "empty").mkdir()
    fails(report(tmp_path / "empty", "-o", page), 1, "is no run (moetap/), no analysis (analysis.json)")
    write_run(tmp_path / "run", layers=2)
    fails(report(tmp_path / "run", "-o", tmp_path / "empty"), 2, "is a folder")
    fails(report(*[tmp_path / "run"] * 3, "-o", page), 2, "takes one run, or two to compare, got 3")
    fails(report(tmp_path / "run", "--images", tmp_path / "none", "-o", page), 2, "is no folder")
    fails(report(tmp_path / "run", "--colorscale", "rainbow", "-o", page), 2, "--colorscale", "viridis", "#rrggbb")
    fails(report(tmp_path / "run", "--only", "horoscope", "-o", page), 2, '"horoscope" is no study')
    (tmp_path / "log.json").write_text("{}")
    fails(report(tmp_path / "run", tmp_path / "log.json", "-o", page), 2, "name inputs of one kind")
    fails(report("--training-log", tmp_path / "none.txt", "-o", page), 1, "none.txt: cannot be read")
    fails(report(tmp_path / "run", "-o", "/proc/no/page.html"), 1, "cannot write")
    assert not page.exists()


def test_damaged_files(report, tmp_path):
    run, page = tmp_path / "run", tmp_path / "page.html"
    write_run(run, layers=2)
    page.write_text(older := '<meta name="generator" content="moetap report">')
    summary = run / "moetap" / "summary.json"
    whole = summary.read_text()
    summary.write_text(whole[: len(whole) // 2])
    fails(report(run, "-o", page), 1, "summary.json: is damaged")
    summary.write_text('{"components": [1]}')
    fails(report(run, "-o", page), 1, "summary.json: is not a summary that this moetap knows")
    summary.write_text(whole)
    (run / "analysis.json").write_text('{"schema_version": 99, "components": {}}')
    fails(report(run, "-o", page), 1, "has schema_version 99, this moetap reads 1")
    (run / "rank0_metric_eval_done.txt").unlink()
    (run / "analysis.json").unlink()
    fails(report(run, "-o", page), 1, "not marked as done")
    assert page.read_text() == older
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]


def test_a_file_that_is_no_page_is_kept(report, tmp_path):
    run = tmp_path / "run"
    write_run(run, layers=2)
    summary = run / "moetap" / "summary.json"
    before = summary.read_bytes()
    fails(report(run, "-o", summary), 1, "summary.json: is there and no report; --force replaces it")
    assert summary.read_bytes() == before
    page = tmp_path / "page.html"
    for options in ([], [], ["--force"]):  # a page is replaced by the next
        assert report(run, "-o", page, *options).returncode == 0
    page.write_text("my notes")
    fails(report(run, "-o", page), 1, "is there and no report")
    assert report(run, "-o", page, "--force").returncode == 0


def test_ranks_that_cannot_be_added_up_are_refused(report, tmp_path):
    """Those that can: test_watch_run.py."""
    run = tmp_path / "run"
    write_run(run, layers=2)
    shutil.copytree(run / "moetap", tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", run / "moetap" / "rank1")
    (run / "rank1_metric_eval_done.txt").write_text("")
    fails(report(run, "-o", tmp_path / "page.html"), 1, "its 2 ranks cannot be read as one run", "sums.frames")


def test_the_same_inputs_give_the_same_bytes(write_page, tmp_path):
    write_run(tmp_path / "run", layers=2)
    first = write_page(tmp_path / "a.html", tmp_path / "run").read_bytes()
    assert write_page(tmp_path / "a.html", tmp_path / "run").read_bytes() == first
    assert stat.S_IMODE(os.stat(tmp_path / "a.html").st_mode) & 0o077 != 0  # no tokens: as the umask lets


@pytest.fixture(scope="module")
def large(tmp_path_factory, write_page):
    folder = tmp_path_factory.mktemp("large")
    summary = write_run(folder / "run", layers=62, experts=256, top_k=8, tokens=3000)
    return summary, write_page(folder / "page.html", folder / "run")


def test_62_layers_of_256_experts(open_page, large):
    summary, page = large
    assert page.stat().st_size < 6_000_000
    opened = open_page(page)
    counts = [layer["selected_count"] for layer in summary["components"]["language_model"].values()]
    opened.page.locator("#figure-usage").scroll_into_view_if_needed()
    opened.traces("usage")
    opened.choose("usage", "Show", "selected_count")
    assert opened.traces("usage")[0]["z"] == counts
    assert "strongest of" in opened.page.locator("#figure-coactivation").text_content() or opened.table("coactivation")
    layer = summary["components"]["language_model"]["0"]
    rows = opened.table("coactivation")
    best = max(layer["coactivation"][a][b] for a in range(256) for b in range(a + 1, 256))
    assert rows[0]["tokens"] == best
    assert all(layer["coactivation"][row["expert_a"]][row["expert_b"]] == row["tokens"] for row in rows)


def test_tokens_and_images_of_a_thousand_samples_fit_a_page(report, tmp_path):
    dumps = pytest.importorskip("report_page", reason="needs safetensors")
    run = tmp_path / "run"
    write_run(run, layers=4, experts=8, tokens=20000)
    dumps.write_dump(run, 4, 8, 2, samples=1000, length=20)
    (tmp_path / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for sample in range(1000):
        (tmp_path / "pictures" / f"{sample}.png").write_bytes(dumps.png(generator))
    page = tmp_path / "page.html"
    done = report(
        *(run, "--max-samples", 1000, "--images", tmp_path / "pictures", "--image-token", 7, "--no-studies"),
        *("-o", page),
    )
    assert done.returncode == 0, done.stderr
    assert page.stat().st_size < 6_000_000
    data = data_of(page)
    samples = data["tokens"]["components"]["language_model"]["samples"]
    numbers = [sample["sample"] for sample in samples]
    assert 100 < len(samples) < 1000 and numbers[0] == 0 and numbers[-1] == 999
    note = data["tokens"]["components"]["language_model"]["note"]
    assert f"{len(samples)} of the 1000 samples are here, taken evenly." in note
    assert all(len(ids) == 20 * 2 for sample in samples for ids in sample["ids"])
    pictured = [sample for sample in samples if "image" in sample]
    assert 50 < len(pictured) <= len(data["tokens"]["images"]) < len(samples)
    assert f"pictures of {len(pictured)} of {len(samples)} samples are in this page" in done.stderr


def test_a_large_dump_is_sampled_and_says_so(open_page, report, large, tmp_path):
    dumps = pytest.importorskip("report_page", reason="needs safetensors")
    run = tmp_path / "run"
    shutil.copytree(large[1].parent / "run", run)
    dumps.write_dump(run, 62, 256, 8, samples=8, length=50)
    page = tmp_path / "page.html"
    done = report(run, "-o", page)
    assert done.returncode == 0, done.stderr
    assert page.stat().st_size < 6_000_000
    data = data_of(page)
    shown = data["tokens"]["components"]["language_model"]
    assert shown["layers"][0] == "0" and shown["layers"][-1] == "61"
    assert f"{len(shown['layers'])} of 62 layers are here, taken evenly." in shown["note"]
    assert "Weights have 4 digits" in shown["note"]
    studies = data["analysis"]["components"]["language_model"]
    assert studies["expert_transitions"]["left_out"]["expert_transitions"].endswith("expert_transitions.csv has all.")
    # Some rows of a table would mislead: whole layers of those that are drawn a layer at a time, and none where the
    # run's counts tell the same.
    placed = studies["placement"]["tables"]["placement"]
    sizes = [placed["layer"].count(layer) for layer in dict.fromkeys(placed["layer"])]
    assert "placement" in studies["placement"]["left_out"] and sizes == [16] * len(sizes) and len(sizes) > 1
    assert studies["expert_usage"]["left_out"]["expert_usage"].endswith(
        "too many for this page; expert_usage.csv has all."
    )
    opened = open_page(page)
    opened.show_all()
    counts = [layer["selected_count"] for layer in large[0]["components"]["language_model"].values()]
    usage = opened.traces("importance")[0]["z"]
    assert usage == [[count / sum(row) for count in row] for row in counts]


def test_surfaces_have_the_layers_experts_and_colours_that_were_asked_for(write_page, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    run = tmp_path / "run"
    write_run(run, layers=6, experts=8)
    probability = {f"language_model.{n}": np.full((30, 8), (n + 1) / 10, np.float32) for n in range(6)}
    safetensors.save_file(probability, run / "moetap" / "probe.safetensors")
    data = data_of(write_page(tmp_path / "a.html", run))
    assert [layer["layer"] for layer in data["probe"]["language_model"]] == list("012345")
    assert data["colorscale"] == ["#19448e", "#4a6fa5", "#7d8db8", "#c49fbb", "#f4b3c2"]
    options = ["--max-layers", 3, "--max-tokens", 5, "--max-experts", 4, "--colorscale", "#000000,#ffffff"]
    data = data_of(write_page(tmp_path / "b.html", run, *options))
    assert [layer["layer"] for layer in data["probe"]["language_model"]] == ["0", "2", "4"]
    assert data["probe"]["language_model"][1]["probability"] == [[0.3] * 4] * 5
    assert data["colorscale"] == ["#000000", "#ffffff"]
    assert "3 of 6 layers, the first 5 tokens and 4 experts" in data["probe_note"]


def test_what_a_merge_left_out_is_said(write_page, tmp_path):
    write_run(tmp_path / "run", layers=2)
    manifest = tmp_path / "run" / "moetap" / "manifest.json"
    line = "run: rank 1 of 2 did not finish: it is not in the merged run"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"missing": [line]}))
    assert line in data_of(write_page(tmp_path / "page.html", tmp_path / "run"))["runs"][0]["warnings"]


def test_two_large_runs_fit_a_page(write_page, large, tmp_path):
    run = large[1].parent / "run"
    shutil.copytree(run, tmp_path / "other")
    assert write_page(tmp_path / "page.html", run, tmp_path / "other").stat().st_size < 6_500_000


def test_data_of_the_page_is_json_that_no_text_ends(write_page, tmp_path):
    write_run(tmp_path / "run", layers=2, module="</script><!-- & {}")
    html = write_page(tmp_path / "page.html", tmp_path / "run").read_text()
    text = html.split('type="application/json">', 1)[1].split("</script>", 1)[0]
    assert "<" not in text and ">" not in text and "&" not in text
    layers = json.loads(text)["runs"][0]["components"]["language_model"]
    assert [layer["name"] for layer in layers] == ["</script><!-- & 0", "</script><!-- & 1"]


def test_studies_that_two_analyses_have_are_named(report, tmp_path):
    for name in ("first", "second"):
        write_analysis(tmp_path / name)
    path = tmp_path / "second/analysis.json"
    analysis = json.loads(path.read_text())
    component, studies = next(iter(analysis["components"].items()))
    twice, once = next(iter(studies)), "of_its_own"
    analysis["components"][component] = {twice: studies[twice], once: studies[twice]}
    path.write_text(json.dumps(analysis))
    done = report(tmp_path / "first", tmp_path / "second", "-o", tmp_path / "page.html")
    assert done.returncode == 0
    (line,) = [one for one in done.stderr.splitlines() if "second" in one]
    assert line.endswith(f": {twice} ({component})") and once not in line
