"""What a run records and prints."""

import json
import os
import pty
import signal
import subprocess
import time

import pytest
import torch
from conftest import MOETAP, assert_succeeded
from moe_model import NUM_EXPERTS, TOP_K, moe_inputs
from safetensors.torch import load_file, save_file

BATCHES = [2, 1, 2]
TOKENS = 2 * 5 + 1 * 7 + 2 * 3


@pytest.fixture(scope="module")
def run(moetap, models, inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "out"
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", path, "--save-outputs")
    assert_succeeded(done)
    return path, done.stdout


def test_a_log_entry_for_each_sequence(run):
    log = json.loads((run[0] / "log_metrics.json").read_text())
    assert [entry["doc_id"] for entry in log["logs"]] == list(range(sum(BATCHES)))
    layers = log["logs"][0]["logs_metrics_vision"][0][0]
    assert set(layers) >= {"0", "1", "time_inference"}
    assert sum(layers["0"]["dist_experts_top2"]) == 5 * TOP_K


def test_the_done_marker(run):
    assert (run[0] / "rank0_metric_eval_done.txt").read_text().strip() == "rank 0 eval done"


def test_the_run_directory_holds_what_readers_expect_there_and_nothing_else(run):
    names = {"log_metrics.json", "results.json", "rank0_metric_eval_done.txt", "moetap"}
    assert {path.name for path in run[0].iterdir()} == names


def test_the_closing_table(run):
    lines = run[1].splitlines()
    assert lines[0].split() == ["component", "layer", "experts", "tokens", "entropy", "balance", "CV", "dead"]
    summary = json.loads((run[0] / "moetap" / "summary.json").read_text())
    for line, layer in zip(lines[1:3], ["0", "1"], strict=True):
        values = summary["components"]["language_model"][layer]
        fields = line.split()
        assert fields[:4] == ["language_model", layer, str(NUM_EXPERTS), str(TOKENS)]
        assert float(fields[4]) == pytest.approx(values["entropy_all"], abs=1e-4)
        assert float(fields[5]) == pytest.approx(values["balance_loss"], abs=1e-4)
        assert float(fields[6]) == pytest.approx(values["load_cv"], abs=1e-4)
        assert int(fields[7]) == values["dead_experts"]


def test_saved_outputs_are_those_of_the_plain_model_in_eval_mode(run, models, inputs):
    model = torch.jit.load(models / "moe.pt").eval()
    for index in range(len(BATCHES)):
        saved = load_file(run[0] / "moetap" / "outputs" / f"{index:06}.safetensors")
        expected = model(**load_file(inputs / f"{index}.safetensors"))
        assert list(saved) == ["output"]
        assert torch.equal(saved["output"], expected)


def test_an_instrumented_model_records_the_same(run, moetap, models, inputs, tmp_path):
    assert moetap("instrument", models / "moe.pt", "-o", tmp_path / "i.pt").returncode == 0
    assert moetap("run", tmp_path / "i.pt", "--inputs", inputs, "-o", tmp_path / "run").returncode == 0
    summaries = [json.loads((path / "moetap" / "summary.json").read_text()) for path in (run[0], tmp_path / "run")]
    assert summaries[0] == summaries[1]


def test_the_manifest_names_the_model(run, models):
    manifest = json.loads((run[0] / "moetap" / "manifest.json").read_text())
    digest = subprocess.run(
        ["sha256sum", models / "moe.pt"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert digest in json.dumps(manifest)


def test_options_go_over_the_configuration_file(moetap, models, inputs, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"task": "from_file", "log_per_token": True, "output_dir": str(tmp_path / "run")}))
    done = moetap(
        "run", models / "moe.pt", "--inputs", inputs, "--config", config, "--task", "mine", "--no-log-per-token"
    )
    assert_succeeded(done)
    log = json.loads((tmp_path / "run" / "mine.json").read_text())
    assert "selected_experts" not in log["logs"][0]["logs_metrics_vision"][0][0]["0"]
    assert not (tmp_path / "run" / "from_file.json").exists()


def test_flags_take_a_value(moetap, models, inputs, tmp_path):
    options = ["--log-per-token", "false", "--renumber-layers"]
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", *options)
    assert_succeeded(done)
    manifest = json.loads((tmp_path / "run" / "moetap" / "manifest.json").read_text())
    assert manifest["config"]["log_per_token"] is False
    assert manifest["config"]["renumber_layers"] is True


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(assert_fails, models, inputs, tmp_path):
    arguments = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--device", "cuda:0"]
    assert_fails(1, *arguments, parts=["cuda:0"])


def test_an_input_that_fails_later_keeps_the_forwards_before_it_but_not_the_done_marker(moetap, models, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    values = moe_inputs(1, 4, seed=0)
    save_file(values, folder / "0.safetensors")
    save_file({**values, "input_ids": values["input_ids"] + 1000}, folder / "1.safetensors")
    done = moetap("run", models / "moe.pt", "--inputs", folder, "-o", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "1.safetensors" in done.stderr
    assert "1 of 2 forwards" in done.stderr
    assert len(json.loads((tmp_path / "run" / "log_metrics.json").read_text())["logs"]) == 1
    assert not (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()


def test_interrupt_keeps_what_finished(models, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for index in range(2000):
        save_file(moe_inputs(4, 64, seed=index), folder / f"{index:04}.safetensors")
    run = tmp_path / "run"
    program = subprocess.Popen(
        [MOETAP, "run", models / "moe.pt", "--inputs", folder, "-o", run, "--save-outputs"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 60
    while not (run / "moetap" / "outputs" / "000010.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130, errors
    assert errors.count("\n") == 1
    assert errors.startswith("moetap: run: interrupted; ")
    assert 40 <= len(json.loads((run / "log_metrics.json").read_text())["logs"]) < 8000
    assert not (run / "rank0_metric_eval_done.txt").exists()


def test_a_progress_bar_on_a_terminal_only(models, inputs, tmp_path):
    terminal, other_end = pty.openpty()
    command = [MOETAP, "run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run"]
    done = subprocess.run(command, stderr=other_end, stdout=subprocess.PIPE, timeout=120)
    os.close(other_end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert "3/3 forwards" in shown
    assert b"3/3" not in done.stdout
