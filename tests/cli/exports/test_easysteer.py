"""EasySteer's analyze_expert_usage, by its own definitions in NumPy."""

import json

import numpy as np
import pytest
from conftest import dump_of
from synthetic_dump import columns_of, routed, write_run, write_shard


def expected(dump: dict, rows: np.ndarray, layers=("0", "1"), top_k: int | None = None) -> dict:
    usage = {"expert_selection": {}, "expert_weights": {}, "expert_usage_counts": {}, "load_balance": {}}
    for layer in layers:
        logits = dump[f"{layer}.logits"][rows].astype(np.float64)
        probabilities = np.exp(logits - logits.max(1, keepdims=True)) if len(logits) else logits
        probabilities = probabilities / probabilities.sum(1, keepdims=True)
        ids = dump[f"{layer}.selected"][rows].astype(np.int64)
        if top_k:
            ids = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        counts = np.bincount(ids.ravel(), minlength=logits.shape[1])
        usage["expert_selection"][layer] = ids.tolist()
        usage["expert_weights"][layer] = np.take_along_axis(probabilities, ids, 1).tolist()
        usage["expert_usage_counts"][layer] = counts.tolist()
        usage["load_balance"][layer] = float(np.std(counts, ddof=1) / counts.mean()) if counts.sum() else 0.0
    return usage | {"num_tokens_analyzed": len(ids)}


def assert_usage(found: dict, wanted: dict) -> None:
    assert list(found) == list(wanted)
    for key in ("expert_selection", "num_tokens_analyzed", "expert_usage_counts"):
        assert found[key] == wanted[key]
    assert found["load_balance"] == pytest.approx(wanted["load_balance"], rel=1e-12)
    for layer, weights in wanted["expert_weights"].items():
        assert np.array(found["expert_weights"][layer]) == pytest.approx(np.array(weights), abs=1e-6)


def test_all_tokens(recorded, export):
    dump = dump_of(recorded)
    found = json.loads(export(recorded, "--to", "easysteer").read_text())
    assert_usage(found, expected(dump, np.arange(len(dump["sample"]))))


@pytest.mark.parametrize("text", ["2:9", "-4:", ":-4", "5:5", "9:2", "-100:100", ":"])
def test_a_range_is_a_slice(recorded, export, text):
    dump = dump_of(recorded)
    begin, end = (int(part) if part else None for part in text.split(":"))
    rows = np.arange(len(dump["sample"]))[begin:end]
    found = json.loads(export(recorded, "--to", "easysteer", f"--token-range={text}").read_text())
    assert_usage(found, expected(dump, rows))


def test_samples_apart(recorded, export):
    dump = dump_of(recorded)
    found = json.loads(export(recorded, "--to", "easysteer", "--split-by-samples", "--token-range=-2:").read_text())
    assert len(found) == 5
    for sample, usage in enumerate(found):
        assert_usage(usage, expected(dump, np.flatnonzero(dump["sample"] == sample)[-2:]))
    found = json.loads(export(recorded, "--to", "easysteer", "--sample", "3").read_text())
    assert_usage(found, expected(dump, np.flatnonzero(dump["sample"] == 3)))


def test_choice_anew_and_shares(recorded, export):
    dump = dump_of(recorded)
    rows = np.arange(len(dump["sample"]))
    found = json.loads(export(recorded, "--to", "easysteer", "--top-k", "3").read_text())
    assert_usage(found, expected(dump, rows, top_k=3))
    found = json.loads(export(recorded, "--to", "easysteer", "--normalize").read_text())
    for layer, counts in expected(dump, rows)["expert_usage_counts"].items():
        assert found["expert_usage_counts"][layer] == pytest.approx(np.array(counts) / len(rows))


def test_phases_and_layers_with_fewer_tokens(tmp_path, export):
    """--normalize divides by the tokens of the layer itself."""
    dump = write_run(tmp_path / "run", ["0", "1"], dump="full")
    labels = columns_of([0, 0, 0, 0], [0, 1, 2, 0], [0, 0, 0, 1], phase=[0, 0, 0, 1])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 4, seed=0, full=True))
    pruned = {name: column[[0, 3]] for name, column in labels.items()} | routed("1", 2, seed=1, full=True)
    write_shard(dump, "language_model.1", 0, 0, pruned)
    run = tmp_path / "run"
    usage = json.loads(export(run, "--to", "easysteer", "--normalize").read_text())
    assert sum(usage["expert_usage_counts"]["0"]) == pytest.approx(2)
    assert sum(usage["expert_usage_counts"]["1"]) == pytest.approx(2)
    for phase, tokens in (("prompt", [3, 1]), ("generation", [1, 1])):
        usage = json.loads(export(run, "--to", "easysteer", "--phase", phase).read_text())
        assert [len(usage["expert_selection"][layer]) for layer in "01"] == tokens


def test_wrong_options(recorded, tmp_path, assert_fails):
    for options, parts in (
        (["--top-k", "5"], ["--top-k", "4 experts", "got 5"]),
        (["--token-range", "3"], ["--token-range", "A:B"]),
        (["--phase", "decode"], ["--phase", "decode"]),
    ):
        assert_fails(2, "export", recorded, "--to", "easysteer", *options, "-o", tmp_path / "x", parts=parts)
