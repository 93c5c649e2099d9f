"""Runs of the program that are merged: the files of one run over all inputs."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import MOETAP, assert_succeeded
from moe_model import moe_inputs
from safetensors.torch import save_file

NUM_INPUTS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("merged")
    files = [folder / f"{index}.safetensors" for index in range(NUM_INPUTS)]
    for index, file in enumerate(files):
        tensors = moe_inputs(1 + index % 3, 4 + index, seed=index)
        if index % 2 == 0:
            tensors["attention_mask"][0, 2:] = 0
        save_file(tensors, file)
    return files


@pytest.fixture
def record(moetap, models, tmp_path):
    def run(name: str, files: list[Path], *options: str) -> Path:
        options = options or ("--dump", "full")
        assert_succeeded(moetap("run", models / "moe.pt", "--inputs", *files, "-o", tmp_path / name, *options))
        return tmp_path / name

    return run


def files_of(run: Path) -> dict[str, object]:
    """Digests of the files, without times, instances and the name of the run's own directory."""
    files = {}
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name == "sums.frames":
            continue
        name = str(path.relative_to(run))
        data = path.read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(data)
            del manifest["times"], manifest["config"]["output_dir"]
            data = json.dumps(manifest).encode()
        elif path.suffix == ".json":
            data = re.sub(rb'"time(_inference)?": ?("[^"]*"|[-0-9.e]+)', b"", data)
        files[name] = hashlib.sha256(data).hexdigest()
    return files


def test_runs_over_parts_of_the_inputs_are_the_run_over_all(record, moetap, inputs, tmp_path):
    whole = record("whole", inputs)
    parts = [record(f"part{i}", inputs[i : i + 2]) for i in range(0, NUM_INPUTS, 2)]
    done = moetap("merge", *parts, "-o", tmp_path / "merged", "--relabel")
    assert_succeeded(done)
    assert done.stdout == f"{tmp_path / 'merged'}: 6 forwards with 12 log entries, of 3 ranks of 3 runs\n"
    assert files_of(tmp_path / "merged") == files_of(whole)
    # A run alone is the same run.
    assert_succeeded(moetap("merge", whole, "-o", tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(whole)
    assert (tmp_path / "merged/log_metrics.json").stat().st_mode & 0o777 == 0o600


def test_lines_of_samples_do_not_follow_numbers_that_were_changed(record, moetap, inputs, tmp_path):
    """Line i of the samples file is of sample i of each run: of the merged run's later samples it is not."""
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps({"doc": {"category": str(i)}}) + "\n" for i in range(9)))
    parts = [record(name, inputs[i : i + 2], "--samples", str(samples)) for i, name in ((0, "first"), (2, "second"))]

    def samples_of(run: Path) -> str:
        return json.loads((run / "moetap/manifest.json").read_text())["config"]["samples"]

    assert_succeeded(moetap("merge", *parts, "-o", tmp_path / "merged", "--relabel"))
    assert samples_of(tmp_path / "merged") == ""
    assert_succeeded(moetap("merge", parts[0], "-o", tmp_path / "alone", "--relabel"))
    assert samples_of(tmp_path / "alone") == str(samples)


def test_a_merged_run_is_exported_as_any_other(record, moetap, inputs, tmp_path):
    whole = record("whole", inputs)
    parts = [record("first", inputs[:3]), record("second", inputs[3:])]
    assert_succeeded(moetap("merge", *parts, "-o", tmp_path / "merged", "--relabel"))
    for run in (whole, tmp_path / "merged"):
        done = moetap("export", run, "--to", "parquet", "-o", tmp_path / f"{run.name}.parquet")
        assert done.returncode == 0, done.stderr
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.parquet")}
        for folder in (tmp_path / "whole.parquet", tmp_path / "merged.parquet")
    ]
    assert digests[0] == digests[1] and len(digests[0]) > 0


def test_what_cannot_be_merged_is_named(record, models, inputs, tmp_path, assert_fails):
    first, second = record("first", inputs[:2]), record("second", inputs[2:4])
    other = record("other", inputs[4:], "--dump", "ids")
    out = ("-o", tmp_path / "out")
    assert_fails(1, "merge", first, second, *out, parts=["sample 0 is in", "--relabel"])
    assert_fails(1, "merge", first, other, "--relabel", *out, parts=['key "dump" is', "full", "ids", str(other)])
    assert_fails(1, "merge", first, first, *out, parts=["is named twice"])
    assert_fails(1, "merge", tmp_path / "nothing", *out, parts=["there is no such directory"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("")
    assert_fails(1, "merge", first, "-o", tmp_path / "taken", parts=["is there already"])
    (first / "rank0_metric_eval_done.txt").unlink()
    assert_fails(1, "merge", first, *out, parts=["did not finish", "moetap recover"])
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.tmp-*"))


def test_a_merge_that_is_killed_or_interrupted_leaves_nothing(record, moetap, inputs, tmp_path):
    """At random moments; what a kill leaves under another name is removed by the next merge into that directory."""
    whole = record("whole", inputs)
    command = [str(MOETAP), "merge", str(whole), "-o"]
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "timed")], check=True, capture_output=True)
    takes = time.monotonic() - began
    expected = files_of(tmp_path / "timed")
    moments = random.Random(3)
    ends = set()
    for number in range(10):
        output = tmp_path / f"killed{number}"
        process = subprocess.Popen([*command, str(output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(moments.uniform(0, 1.1) * takes)
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGINT)
        process.communicate(timeout=60)
        ends.add(process.returncode)
        if output.exists():
            assert files_of(output) == expected
            continue
        assert_succeeded(moetap("merge", whole, "-o", output))
        assert files_of(output) == expected
        assert not list(tmp_path.glob(f"killed{number}.tmp-*"))
    assert ends & {-signal.SIGKILL, -signal.SIGINT, 130}


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_one_run_are_merged(ranks, record, moetap, models, inputs, tmp_path):
    """Each rank counts its samples from 0, as the program does: --relabel numbers them rank by rank."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    each = NUM_INPUTS // 2 if ranks == 2 else 1
    chosen = [inputs[rank * each : (rank + 1) * each] for rank in range(ranks)]
    for rank in range(ranks):
        command = ["run", models / "moe.pt", "--inputs", *chosen[rank], "-o", tmp_path / "run", "--dump", "topk"]
        done = moetap(*command, **environment, RANK=str(rank), WORLD_SIZE=str(ranks))
        assert done.returncode == 0, done.stderr
    assert_succeeded(moetap("merge", tmp_path / "run", "-o", tmp_path / "merged", "--relabel"))
    whole = record("whole", [file for part in chosen for file in part], "--dump", "topk")
    assert files_of(tmp_path / "merged") == files_of(whole)
