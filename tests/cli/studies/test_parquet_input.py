"""Parquet exports of a run, in every spelling, and FLAME-MoE's traces give the tables of the run."""

import os
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import files_of, read_table
from synthetic_dump import columns_of, routed, write_run, write_shard

BY_TOKENS = "layer_statistics,expert_usage,usage,expert_cache,predictability,token_expert_enrichment"


def tables(folder) -> dict[str, bytes]:
    found = {name: text for name, text in files_of(folder).items() if name.endswith(".csv")}
    return {name: text for name, text in found.items() if name != "input_check.csv"}


@pytest.mark.parametrize("options", [[], ["--lists"], ["--logits"]])
def test_an_export_gives_the_tables_of_the_run(moetap, recorded, analyze, tmp_path, options):
    done = moetap("export", recorded, "--to", "parquet", *options, "-o", tmp_path / "parquet")
    assert done.returncode == 0, done.stderr
    only = ["--only", BY_TOKENS, "--phase", "all"]
    expected = tables(analyze(recorded, *only))
    assert {"usage.csv", "expert_cache.csv"} <= set(expected)
    assert tables(analyze(tmp_path / "parquet", *only)) == expected
    assert not list(tmp_path.glob("**/.moetap-import*"))


def test_pruned_tokens_ranks_and_turns_find_their_place(moetap, analyze, tmp_path):
    """Two ranks; in the first, samples take turns and layer 1 sees three of eight tokens, in another order."""
    dump = write_run(tmp_path / "run", ["0", "1"], ranks=2)
    labels = columns_of([0, 0, 7, 0, 7, 0, 7, 7], [0, 1, 0, 0, 1, 0, 0, 0], [0, 0, 1, 2, 2, 3, 4, 5])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 8, seed=0))
    rows = [2, 4, 5]
    pruned = {name: column[rows] for name, column in labels.items()} | routed("1", 3, seed=1)
    write_shard(dump, "language_model.1", 0, 0, pruned)
    other = columns_of([0, 0, 1], [0, 1, 0], [0, 0, 0])
    both = routed("0", 3, seed=2) | routed("1", 3, seed=3)
    write_shard(dump.parent / "rank1", "language_model", 0, 0, other | both, rank=1)
    assert moetap("export", tmp_path / "run", "--to", "parquet", "-o", tmp_path / "parquet").returncode == 0
    only = ["--only", "layer_statistics,expert_transitions,usage"]
    assert tables(analyze(tmp_path / "parquet", *only)) == tables(analyze(tmp_path / "run", *only))


def test_traces_give_what_they_have(moetap, recorded, analyze, tmp_path):
    assert moetap("export", recorded, "--to", "flame", "-o", tmp_path / "flame").returncode == 0
    folder, run = analyze(tmp_path / "flame"), analyze(recorded)
    for name in ("layer_statistics.csv", "token_expert_enrichment.csv"):
        assert read_table(folder / name) | {"component": []} == read_table(run / name) | {"component": []}
    # Of another writer: lists of a fixed size, no metadata, several row groups.
    random = np.random.default_rng(0)
    (tmp_path / "other").mkdir()
    ids = np.argsort(random.random((2, 50, 9)), axis=-1)[..., :3].astype(np.int16)
    for layer in range(2):
        table = pa.table(
            {
                "scores": pa.array(random.random((50, 3)).astype(np.float16).tolist(), pa.list_(pa.float16())),
                "indices": pa.FixedSizeListArray.from_arrays(pa.array(ids[layer].ravel()), 3),
                "token_id": pa.array(random.integers(0, 9, 50), pa.int32()),
            }
        )
        pq.write_table(table, tmp_path / f"other/layer_{layer:02}.parquet", row_group_size=17)
    table = read_table(analyze(tmp_path / "other", "--only", "layer_statistics") / "layer_statistics.csv")
    for layer in range(2):
        counts = np.bincount(ids[layer].ravel(), minlength=9)
        assert int(table["max_expert"][layer]) == counts.argmax()
        assert float(table["max_expert_ratio"][layer]) == pytest.approx(counts.max() / counts.sum(), rel=1e-12)


def test_damaged_files_are_one_line(moetap, recorded, assert_fails, tmp_path):
    assert moetap("export", recorded, "--to", "parquet", "-o", tmp_path / "parquet").returncode == 0
    file = next((tmp_path / "parquet").glob("component=*/layer=1/*.parquet"))
    whole = file.read_bytes()
    out = ["-o", tmp_path / "x"]
    for size in (0, 4, 100, len(whole) - 5):
        file.write_bytes(whole[:size])
        assert_fails(1, "analyze", tmp_path / "parquet", *out, parts=["layer=1"])
    pq.write_table(pa.table({"a": [1, 2]}), file)
    assert_fails(1, "analyze", tmp_path / "parquet", *out, parts=["layer=1", "indices"])
    assert not list(tmp_path.glob("**/.moetap-import*")) and not (tmp_path / "x").exists()


def write_trace(folder, layer: str, **columns):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"layer_{layer:0>2}.parquet")


def lists_of(ids) -> pa.Array:
    return pa.array([list(map(int, row)) for row in ids], pa.list_(pa.int64()))


def test_tokens_far_apart_are_refused(assert_fails, tmp_path):
    """2^40 tokens between two rows would be rows of nothing in the temporary run."""
    for last in (2, 2**40, 2**63 - 1):
        write_trace(tmp_path / "traces", "0", indices=lists_of([[0, 1], [1, 2]]), token=pa.array([0, last], pa.int64()))
        parts = ["layer_00.parquet", f"tokens are numbered 0 to {last}", "2 rows"]
        assert_fails(1, "analyze", tmp_path / "traces", "-o", tmp_path / "x", parts=parts)
    assert not list(tmp_path.glob(".moetap-import*"))


def test_ids_beyond_32_bits_are_foreign(analyze, tmp_path):
    ids = [[0, 1], [2**32, 1], [2**40 + 1, 2], [-(2**35), 0]]
    write_trace(tmp_path / "traces", "0", indices=lists_of(ids))
    folder = analyze(tmp_path / "traces", "--only", "usage")
    usage = read_table(folder / "usage.csv")
    assert usage["expert_id"] == ["0", "1", "2"] and usage["selected_count"] == ["2", "2", "1"]
    assert "3 of 8 ids are no experts" in (folder / "analysis.json").read_text()


def test_labels_out_of_range_are_refused(assert_fails, tmp_path):
    write_trace(tmp_path / "traces", "0", indices=lists_of([[0, 1]]), token_id=pa.array([2**32], pa.int64()))
    parts = ["layer_00.parquet", "column token_id holds 4294967296"]
    assert_fails(1, "analyze", tmp_path / "traces", "-o", tmp_path / "x", parts=parts)


def test_a_component_may_have_dots_in_its_name(analyze, tmp_path):
    """FLAME-MoE's folders are named after the model; one name may begin as another does."""
    ids = np.argsort(np.random.default_rng(0).random((2, 20, 6)), axis=-1)[..., :2]
    for model, layer in (("FLAME-MoE-1.7B", 0), ("FLAME-MoE-1", 1)):
        write_trace(tmp_path / "traces" / model, "0", indices=lists_of(ids[layer]))
    table = read_table(analyze(tmp_path / "traces", "--only", "usage") / "usage.csv")
    for model, layer in (("FLAME-MoE-1.7B", 0), ("FLAME-MoE-1", 1)):
        counts = [int(n) for name, n in zip(table["component"], table["selected_count"], strict=True) if name == model]
        assert counts == np.bincount(ids[layer].ravel(), minlength=6).tolist()


def test_an_import_that_was_killed_is_removed_by_the_next(analyze, tmp_path):
    write_trace(tmp_path / "traces", "0", indices=lists_of([[0, 1], [1, 2]]))
    dead = subprocess.Popen(["true"])
    dead.wait()
    for process in (dead.pid, os.getpid()):
        (tmp_path / f".moetap-import-{process}-abcdef/moetap").mkdir(parents=True)
    analyze(tmp_path / "traces", "--only", "layer_statistics")
    assert [path.name for path in tmp_path.glob(".moetap-import*")] == [f".moetap-import-{os.getpid()}-abcdef"]
