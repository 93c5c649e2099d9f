"""Live figures: what Prometheus and TensorBoard read must be what summary.json says."""

import json
import re

import pytest
from conftest import assert_succeeded
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NAMES = {"tokens": "tokens", "load_cv": "load_cv", "entropy_nats": "entropy_all", "dead_experts": "dead_experts"}


@pytest.fixture(scope="module")
def run(moetap, models, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    options = ["--metrics-file", folder / "moetap.prom", "--tensorboard-dir", folder / "board"]
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", folder / "run", *options)
    assert_succeeded(done)
    return folder


def expected(folder):
    summary = json.loads((folder / "run/moetap/summary.json").read_text())
    for component, layers in summary["components"].items():
        for layer, metrics in layers.items():
            values = {name: metrics[key] for name, key in NAMES.items()}
            values["max_over_mean"] = metrics["max_violation"] + 1
            yield component, layer, values


def test_prometheus_text_holds_the_figures_of_the_summary(run):
    text = (run / "moetap.prom").read_text()
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP moetap_\w+ .+|TYPE moetap_\w+ (counter|gauge))", line), line
            continue
        name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
        found[name, tuple(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
    common = (("task", "log_metrics"), ("rank", "0"))
    manifest = json.loads((run / "run/moetap/manifest.json").read_text())
    assert found["moetap_forwards_total", common] == manifest["counters"]["forwards"]
    layers = list(expected(run))
    assert layers
    for component, layer, values in layers:
        labels = (*common, ("component", component), ("layer", layer))
        for name, value in values.items():
            assert found[f"moetap_router_{name}", labels] == pytest.approx(value, rel=1e-12)


def test_tensorboard_reads_the_same_figures(run):
    board = EventAccumulator(str(run / "board"))
    board.Reload()
    tags = set(board.Tags()["scalars"])
    for component, layer, values in expected(run):
        for name, value in values.items():
            tag = f"{component}/{layer}/{name}"
            assert tag in tags
            newest = board.Scalars(tag)[-1]
            assert newest.value == pytest.approx(value, rel=1e-6)
            assert newest.step == board.Scalars("counters/forwards")[-1].value


def test_a_file_that_cannot_be_written_is_said_and_the_run_is_whole(moetap, models, inputs, tmp_path):
    missing = tmp_path / "missing/moetap.prom"
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--metrics-file", missing)
    assert done.returncode == 0
    assert f"cannot write {missing}" in done.stderr
    assert (tmp_path / "run/rank0_metric_eval_done.txt").exists()
