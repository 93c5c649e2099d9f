"""What a run records and prints."""

import json

import pytest
import torch
from conftest import assert_succeeded
from moe_model import TOP_K
from safetensors.torch import load_file

BATCHES = [2, 1, 2]


@pytest.fixture(scope="module")
def run(moetap, models, inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "out"
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", path, "--save-outputs")
    assert_succeeded(done)
    return path


def test_a_log_entry_for_each_sequence(run):
    log = json.loads((run / "log_metrics.json").read_text())
    assert [entry["doc_id"] for entry in log["logs"]] == list(range(sum(BATCHES)))
    layers = log["logs"][0]["logs_metrics_vision"][0][0]
    assert set(layers) >= {"0", "1", "time_inference"}
    assert sum(layers["0"]["dist_experts_top2"]) == 5 * TOP_K


def test_the_done_marker(run):
    assert (run / "rank0_metric_eval_done.txt").read_text().strip() == "rank 0 eval done"


def test_the_run_directory_holds_what_readers_expect_there_and_nothing_else(run):
    names = {"log_metrics.json", "results.json", "rank0_metric_eval_done.txt", "moetap"}
    assert {path.name for path in run.iterdir()} == names


def test_saved_outputs_are_those_of_the_plain_model_in_eval_mode(run, models, inputs):
    model = torch.jit.load(models / "moe.pt").eval()
    for index in range(len(BATCHES)):
        saved = load_file(run / "moetap" / "outputs" / f"{index:06}.safetensors")
        expected = model(**load_file(inputs / f"{index}.safetensors"))
        assert list(saved) == ["output"]
        assert torch.equal(saved["output"], expected)


def test_an_instrumented_model_records_the_same(run, moetap, models, inputs, tmp_path):
    assert moetap("instrument", models / "moe.pt", "-o", tmp_path / "i.pt").returncode == 0
    assert moetap("run", tmp_path / "i.pt", "--inputs", inputs, "-o", tmp_path / "run").returncode == 0
    summaries = [json.loads((path / "moetap" / "summary.json").read_text()) for path in (run, tmp_path / "run")]
    assert summaries[0] == summaries[1]


def test_samples_give_the_log_its_fields(moetap, models, inputs, tmp_path):
    samples = tmp_path / "samples.jsonl"
    lines = [{"doc_id": 10 + i, "target": str(i), "doc": {"category": f"digit {i}"}} for i in range(sum(BATCHES))]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--samples", samples)
    assert_succeeded(done)
    log = json.loads((tmp_path / "run" / "log_metrics.json").read_text())
    assert [(e["doc_id"], e["target"], e["doc"]) for e in log["logs"]] == [
        (line["doc_id"], line["target"], line["doc"]) for line in lines
    ]


def test_another_method(moetap, models, inputs, tmp_path):
    run = tmp_path / "run"
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", run, "--method", "encode", "--save-outputs")
    assert_succeeded(done)
    saved = load_file(run / "moetap" / "outputs" / "000000.safetensors")["output"]
    expected = torch.jit.load(models / "moe.pt").eval().encode(**load_file(inputs / "0.safetensors"))
    assert torch.equal(saved, expected)
    summary = json.loads((run / "moetap" / "summary.json").read_text())
    assert summary["components"]["language_model"]["0"]["tokens"] > 0  # forward calls it, and it reports by itself


@pytest.mark.parametrize("option", ["--token-ids", "--token-mask"])
def test_an_argument_that_the_method_lacks(assert_fails, models, inputs, tmp_path, option):
    arguments = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", option, "tokens"]
    assert_fails(2, *arguments, parts=["tokens", "input_ids"])
    assert not (tmp_path / "run").exists()


def test_a_method_that_the_model_lacks(assert_fails, models, inputs, tmp_path):
    arguments = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--method", "decode"]
    assert_fails(2, *arguments, parts=["decode", "forward", "encode"])
