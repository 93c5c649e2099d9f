"""`moetap analyze` end to end: what it writes, says and refuses."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import files_of, read_table
from safetensors.numpy import load_file
from synthetic_dump import columns_of, routed, write_run, write_shard

MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"
NOTEBOOK_TABLES = [
    "layer_statistics",
    "expert_usage",
    "layer_changes",
    "top_experts",
    "expert_stability",
    "expert_transitions",
    "expert_evolution_stats",
    "expert_cooperation",
]


def dump_of(run: Path) -> dict[str, np.ndarray]:
    shards = [load_file(path) for path in sorted((run / "moetap/dump/rank0").glob("language_model-*.safetensors"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def test_the_list_names_every_study_with_its_question_and_needs(moetap):
    done = moetap("analyze", "--list")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    names = [line for line in lines if not line.startswith(" ")]
    assert len(names) == len(set(names)) >= 18
    for table in NOTEBOOK_TABLES:
        place = lines.index(table)
        assert lines[place + 1].strip().endswith("?") and lines[place + 2].strip().startswith("needs ")


def test_a_run_gives_tables_a_json_of_all_of_them_and_a_sentence_each(moetap, recorded, tmp_path):
    done = moetap("analyze", recorded, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    analysis = json.loads((tmp_path / "out/analysis.json").read_text())
    studies = analysis["components"]["language_model"]
    table = read_table(tmp_path / "out/layer_statistics.csv")
    dump = dump_of(recorded)
    for layer in range(2):
        counts = Counter(dump[f"{layer}.selected"].ravel().tolist())
        largest = max(counts.values())
        best = min(expert for expert, count in counts.items() if count == largest)
        assert table["layer"][layer] == str(layer + 1)
        assert table["active_experts"][layer] == str(len(counts))
        assert table["max_expert"][layer] == str(best)
        assert float(table["max_expert_ratio"][layer]) == pytest.approx(largest / counts.total(), rel=1e-12)
    for study, found in studies.items():
        assert found["sentence"], study
        if study != "input_check":
            assert f"{study}: {found['sentence']}" in done.stdout
        for name, columns in found["tables"].items():
            of_csv = read_table(tmp_path / f"out/{name}.csv")
            assert list(columns) == list(of_csv)
            lengths = {len(cells) for cells in columns.values()}
            assert lengths == {len(next(iter(of_csv.values())))}
            for column, cells in columns.items():
                assert ["" if cell is None else cell for cell in cells] == [
                    "" if text == "" else type(cell)(text) for cell, text in zip(cells, of_csv[column], strict=True)
                ]
    left_out = {entry["study"]: entry["needs"] for entry in analysis["not_run"]}
    assert "attn_weights.npy" in left_out["information_flow"] or "--attention" in left_out["information_flow"]
    assert not set(left_out) & set(studies)
    for study, needs in left_out.items():
        assert f"not run: {study}: needs {needs}" in done.stdout


def test_arrays_of_a_run_give_the_tables_of_the_run(moetap, recorded, analyze, tmp_path):
    assert moetap("export", recorded, "--to", "npy", "-o", tmp_path / "npy").returncode == 0
    of_run, of_arrays = analyze(recorded), analyze(tmp_path / "npy")
    for table in NOTEBOOK_TABLES:
        assert (of_run / f"{table}.csv").read_bytes() == (of_arrays / f"{table}.csv").read_bytes(), table


def test_weights_stand_in_for_gates_and_it_is_said(moetap, tmp_path):
    dump = write_run(tmp_path / "run", ["0"])
    write_shard(dump, "language_model", 0, 0, columns_of([0, 0], [0, 1], [0, 0]) | routed("0", 2, seed=0))
    for only, said in (("expert_usage", 1), ("usage", 0)):
        done = moetap("analyze", tmp_path / "run", "--only", only, "-o", tmp_path / only)
        assert done.returncode == 0 and done.stderr.count("are its weights") == said, done.stderr


@pytest.mark.parametrize("scoring", ["softmax", "softmax_topk", "sigmoid", "sigmoid_bias", ""])
def test_scores_are_softmax_of_logits_only_where_the_router_says_so(moetap, tmp_path, scoring):
    dump = write_run(tmp_path / "run", ["0"], dump="full")
    columns = columns_of([0, 0, 1], [0, 1, 0], [0, 0, 0]) | routed("0", 3, seed=0, full=True)
    del columns["0.scores"]
    write_shard(dump, "language_model", 0, 0, columns)
    manifest = tmp_path / "run/moetap/manifest.json"
    about = json.loads(manifest.read_text())
    about["hooks"][0]["scoring"] = scoring
    manifest.write_text(json.dumps(about))
    done = moetap("analyze", tmp_path / "run", "-o", tmp_path / "out")
    assert done.returncode == 0
    has_scores = scoring.startswith("softmax")
    assert (tmp_path / "out/layer_activation.csv").exists() == has_scores
    assert ("no softmax" in done.stderr) != has_scores and ("are its weights" in done.stderr) != has_scores


def test_only_the_named_studies_are_made(analyze, recorded, assert_fails, tmp_path):
    folder = analyze(recorded, "--only", "layer_statistics,layer_changes")
    assert {"layer_statistics.csv", "layer_changes.csv", "analysis.json"} < set(files_of(folder))
    assert "expert_usage.csv" not in files_of(folder)
    options = ["-o", tmp_path / "x"]
    assert_fails(2, "analyze", recorded, "--only", "layers", *options, parts=['"layers"', "layer_statistics"])
    assert_fails(
        1, "analyze", recorded, "--only", "information_flow", *options, parts=["information_flow", "attention"]
    )
    assert_fails(1, "analyze", recorded, "--only", "alignment", *options, parts=["alignment", "two runs"])
    assert not (tmp_path / "x").exists()


def test_the_number_of_threads_changes_nothing(analyze, recorded, arrays):
    path = arrays()
    for of in (recorded, path):
        one, many = analyze(of, "--threads", "1"), analyze(of, "--threads", "7")
        assert files_of(one) == files_of(many)


def test_a_run_compared_with_itself_and_with_another(analyze, tmp_path, recorded):
    same = analyze(recorded, recorded, "--only", "alignment")
    table = read_table(same / "alignment.csv")
    assert set(table["same_set"]) == {"1"} and set(table["overlap"]) == {"1"}
    assert set(table["unmatched_a"]) == set(table["unmatched_b"]) == {"0"}
    # Sample 1 of the other run lacks its last token, and its tokens stand in another order of forwards.
    labels = columns_of([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1])
    rows = routed("0", 4, seed=1)
    write_shard(write_run(tmp_path / "a", ["0"]), "language_model", 0, 0, labels | rows)
    other = [2, 0, 1]
    labels_b = {name: column[other] for name, column in labels.items()}
    labels_b["forward"] = np.array([0, 1, 1])
    rows_b = {name: column[other] for name, column in rows.items()}
    write_shard(write_run(tmp_path / "b", ["0"]), "language_model", 0, 0, labels_b | rows_b)
    table = read_table(analyze(tmp_path / "a", tmp_path / "b", "--only", "alignment") / "alignment.csv")
    assert table["tokens"] == ["3"] and table["unmatched_a"] == ["1"] and table["unmatched_b"] == ["0"]
    assert table["same_set"] == ["1"]


def test_samples_that_take_turns_are_put_together(analyze, tmp_path):
    """The tables of a generation are those of a run in which each sample stands alone."""
    random = np.random.default_rng(3)
    sample = np.array([0, 0, 0, 7, 7, 0, 7, 0, 7, 0])
    labels = columns_of(sample, [0, 1, 2, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 2, 2, 3], [0] * 5 + [1] * 5)
    labels["token_id"] = random.integers(0, 9, 10).astype(np.int32)
    layers = routed("0", 10, seed=0) | routed("1", 10, seed=1)
    write_shard(write_run(tmp_path / "turns", ["0", "1"]), "language_model", 0, 0, labels | layers)
    order = np.argsort(sample, kind="stable")
    alone = {name: column[order] for name, column in (labels | layers).items()}
    alone["forward"] = np.array([0, 0, 0, 1, 2, 3, 4, 4, 5, 6])
    write_shard(write_run(tmp_path / "alone", ["0", "1"]), "language_model", 0, 0, alone)
    only = "expert_cache,predictability,layer_statistics,expert_transitions"
    turns, after = (files_of(analyze(tmp_path / name, "--only", only)) for name in ("turns", "alone"))
    assert {name for name in turns if name.endswith(".csv")} >= {"expert_cache.csv", "predictability.csv"}
    for name in turns:
        if name.endswith(".csv"):
            assert turns[name] == after[name], name


def test_two_runs_are_one_input(analyze, tmp_path):
    """Half the tokens in each: the tables of sums are those of one run with all."""
    labels, layer = columns_of([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]), routed("0", 4, seed=5)
    whole = labels | layer
    write_shard(write_run(tmp_path / "whole", ["0"]), "language_model", 0, 0, whole)
    for name, rows in (("a", slice(0, 2)), ("b", slice(2, 4))):
        half = {column: values[rows] for column, values in whole.items()}
        write_shard(write_run(tmp_path / name, ["0"]), "language_model", 0, 0, half)
    only = ["--only", "layer_statistics,expert_usage,expert_cooperation"]
    one, two = analyze(tmp_path / "whole", *only), analyze(tmp_path / "a", tmp_path / "b", *only)
    for name in ("layer_statistics.csv", "expert_usage.csv", "expert_cooperation.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_what_is_no_input(assert_fails, tmp_path, recorded):
    options = ["-o", tmp_path / "x"]
    assert_fails(2, "analyze", *options, parts=["no input"])
    assert_fails(2, "analyze", recorded, parts=["-o OUT_DIR"])
    assert_fails(1, "analyze", tmp_path / "nothing", *options, parts=["nothing", "no such"])
    (tmp_path / "empty").mkdir()
    assert_fails(1, "analyze", tmp_path / "empty", *options, parts=["no run", "topk_idx.npy"])
    assert_fails(1, "analyze", recorded, "--component", "vision_tower", *options, parts=["vision_tower"])
    assert_fails(1, "analyze", recorded, "--layer", "9", *options, parts=["--layer", "0, 1"])
    assert_fails(1, "analyze", recorded, "--group-by", "colour", *options, parts=["colour", "category"])
    assert not (tmp_path / "x").exists()


def test_groups_are_fields_of_the_samples_docs(analyze, recorded):
    table = read_table(analyze(recorded, "--group-by", "category", "--only", "groups") / "group_usage.csv")
    assert set(table["group"]) == {"odd", "even"}
    samples = dict(zip(table["group"], table["samples"], strict=True))
    assert samples == {"odd": "3", "even": "2"}


def test_an_output_is_replaced_only_by_force_and_only_if_it_is_one(moetap, recorded, analyze, assert_fails, tmp_path):
    folder = analyze(recorded, "--only", "layer_statistics")
    assert_fails(1, "analyze", recorded, "-o", folder, parts=["is there already", "--force"])
    assert moetap("analyze", recorded, "--only", "layer_changes", "-o", folder, "--force").returncode == 0
    assert "layer_changes.csv" in files_of(folder) and "layer_statistics.csv" not in files_of(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    assert_fails(1, "analyze", recorded, "-o", tmp_path / "other", "--force", parts=["is no output of moetap analyze"])
    assert (tmp_path / "other/file").read_text() == "mine"


def test_a_log_alone_gives_its_studies(analyze, recorded):
    log = recorded / "log_metrics.json"
    table = read_table(analyze(log) / "router_metrics.csv")
    entries = json.loads(log.read_text())["logs"]
    assert set(table["entries"]) == {str(len(entries))}
    layers = [entry["logs_metrics_vision"][0][0]["0"] for entry in entries]
    mean = np.mean([layer["entropy_weight_topk"] for layer in layers])
    assert float(table["entropy_topk"][table["layer"].index("0")]) == pytest.approx(mean, rel=1e-9)


def test_a_damaged_log_is_one_line(recorded, assert_fails, tmp_path):
    text = (recorded / "log_metrics.json").read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "other.json").write_text('{"a": [1, {"b": 2}]}')
    (tmp_path / "ids.json").write_text('{"logs": [{"logs_metrics_vision": [[{"0": {"dist_experts_top1": ["x"]}}]]}]}')
    for name, part in (("cut", "entry"), ("other", '"logs"'), ("ids", "dist_experts_top1")):
        assert_fails(1, "analyze", tmp_path / f"{name}.json", "-o", tmp_path / "x", parts=[name, part])


def test_a_damaged_shard_is_said(recorded, analyze, moetap, tmp_path):
    shutil.copytree(recorded, tmp_path / "run")
    shard = next((tmp_path / "run/moetap/dump/rank0").glob("language_model-*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 8)
    done = moetap("analyze", tmp_path / "run", "-o", tmp_path / "x")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "damaged" in done.stderr


def test_ctrl_c_leaves_nothing(tmp_path):
    tokens, layers = 400_000, 12
    sample = np.arange(tokens) // 60
    labels = columns_of(sample, np.arange(tokens) % 60, sample // 8, token_id=np.arange(tokens) % 5000)
    ids = np.random.default_rng(0).integers(0, 64, (tokens, 8)).astype(np.int16)
    columns = {f"{layer}.selected": np.roll(ids, layer, 0) for layer in range(layers)}
    folder = write_run(tmp_path / "run", [str(layer) for layer in range(layers)], dump="ids", experts=64)
    write_shard(folder, "language_model", 0, 0, labels | columns)
    (tmp_path / "out").mkdir()
    for options in ([], ["--shard", "0/2"]):
        process = subprocess.Popen(
            [MOETAP, "analyze", tmp_path / "run", "-o", tmp_path / "out/x", "--threads", "2", *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        while not list((tmp_path / "out").iterdir()):
            time.sleep(0.005)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=100)
        assert process.returncode == 130 and stderr.count("\n") == 1 and "interrupted" in stderr
        assert list((tmp_path / "out").iterdir()) == []


def test_a_matrix_beyond_all_tokens_is_left_out(moetap, tmp_path):
    """The name of an attention matrix says its first query: it may be the largest number there is."""
    dump = write_run(tmp_path / "run", ["0"])
    write_shard(dump, "language_model", 0, 0, columns_of([0] * 4, range(4), [0] * 4) | routed("0", 4, seed=0))
    matrix = np.full((2, 4), 0.25, np.float32)
    write_shard(dump, "language_model.attention", 0, 0, {"0/0/0": matrix, f"0/0/{2**63 - 1}": matrix})
    done = moetap("analyze", tmp_path / "run", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 attention matrices of language_model are left out" in done.stderr
