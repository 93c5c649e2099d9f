"""FLAME-MoE's traces, in the layout in which they are published: actives/iter_NNNN/layer_NN.parquet, samples/."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import dump_of
from synthetic_dump import columns_of, routed, write_run, write_shard


def trace_of(folder, layer: int) -> pa.Table:
    return pq.read_table(folder / f"actives/iter_0000/layer_{layer:02}.parquet")


def sorted_slots(ids: np.ndarray, scores: np.ndarray) -> tuple[list, np.ndarray]:
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1).tolist(), np.take_along_axis(scores, order, 1)


def test_a_file_a_layer_holds_the_choice_of_each_token(recorded, export):
    folder = export(recorded, "--to", "flame")
    dump = dump_of(recorded)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet")) == [
        "actives/iter_0000/layer_00.parquet",
        "actives/iter_0000/layer_01.parquet",
        "samples/000.parquet",
    ]
    assert pq.read_table(folder / "samples/000.parquet")["token_id"].to_pylist() == dump["token_id"].tolist()
    for layer in range(2):
        table = trace_of(folder, layer)
        types = {field.name: field.type for field in table.schema}
        assert types["scores"].value_type == pa.float16() and types["indices"].value_type == pa.int16()
        assert types["token_id"] == pa.int32()
        # Probabilities over all experts, of which the selected ones do not sum to 1.
        chosen = np.take_along_axis(dump[f"{layer}.scores"], dump[f"{layer}.selected"].astype(int), 1)
        ids, scores = sorted_slots(dump[f"{layer}.selected"], chosen)
        assert table["indices"].to_pylist() == ids
        assert np.array_equal(np.array(table["scores"].to_pylist(), np.float16), scores.astype(np.float16))
        assert (chosen.sum(1) < 0.999).any()
        assert table["token_id"].to_pylist() == dump["token_id"].tolist()


def test_without_scores_the_weights_take_their_place(tmp_path, export):
    dump = write_run(tmp_path / "run", ["2"])
    columns = columns_of([0, 0, 1], [0, 1, 0], [0, 0, 0]) | routed("2", 3, seed=0)
    columns["2.weights"] = np.array([[0.25, 0.75], [0.5, 0.5], [1, 0]], np.float32)
    columns["2.selected"] = np.array([[1, 3], [2, 0], [3, -1]], np.int16)
    write_shard(dump, "language_model", 0, 0, columns)
    folder = export(tmp_path / "run", "--to", "flame", notices=("are the weights",))
    table = trace_of(folder, 2)
    assert table["indices"].to_pylist() == [[3, 1], [2, 0], [3, -1]]
    assert table["scores"].to_pylist() == [[0.75, 0.25], [0.5, 0.5], [1, 0]]


def test_rows_of_all_files_are_the_same_tokens(tmp_path, export):
    """Layer 1 sees tokens 2 and 0 alone."""
    dump = write_run(tmp_path / "run", ["0", "1"], dump="full")
    labels = columns_of([0, 0, 0], [0, 1, 2], [0, 0, 0])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 3, seed=0, full=True))
    rows = [2, 0]
    pruned = {name: column[rows] for name, column in labels.items()} | routed("1", 2, seed=1, full=True)
    write_shard(dump, "language_model.1", 0, 0, pruned)
    folder = export(tmp_path / "run", "--to", "flame")
    chosen = np.take_along_axis(pruned["1.scores"], pruned["1.selected"].astype(int), 1)
    ids, scores = sorted_slots(pruned["1.selected"], chosen)
    table = trace_of(folder, 1)
    assert table["indices"].to_pylist() == [ids[1], [-1, -1], ids[0]]
    assert np.array_equal(
        np.array(table["scores"].to_pylist(), np.float16), np.array([scores[1], [0, 0], scores[0]], np.float16)
    )
    assert trace_of(folder, 0).num_rows == 3
