"""Arrays for NumPy and the notebook: a sample is a row, its tokens stand side by side, padding at the end."""

import numpy as np
import pytest
from conftest import dump_of
from synthetic_dump import columns_of, routed, write_run, write_shard


def load(folder) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def test_arrays_hold_the_dump(recorded, export):
    arrays = load(export(recorded, "--to", "npy"))
    dump = dump_of(recorded)
    assert set(arrays) == {"gate_scores", "topk_idx", "token_types"}
    assert arrays["gate_scores"].shape == (2, 5, 7, 4) and arrays["gate_scores"].dtype == np.float32
    assert arrays["topk_idx"].shape == (2, 5, 7, 2) and arrays["topk_idx"].dtype == np.int64
    valid = arrays["token_types"] != -1
    assert valid.sum(1).tolist() == [5, 3, 7, 3, 3]
    assert (np.diff(valid.astype(int), axis=1) <= 0).all()  # padding is at the end
    for layer in range(2):
        for sample in range(5):
            rows = dump["sample"] == sample
            n = rows.sum()
            assert np.array_equal(arrays["topk_idx"][layer, sample, :n], dump[f"{layer}.selected"][rows])
            assert np.array_equal(arrays["gate_scores"][layer, sample, :n], dump[f"{layer}.scores"][rows])
            assert np.array_equal(arrays["token_types"][sample, :n], dump["token_id"][rows])
    assert (arrays["topk_idx"][:, ~valid] == -1).all()
    assert (arrays["gate_scores"][:, ~valid] == 0).all()


def test_generated_tokens_follow_their_prompt(tmp_path, export):
    """Two samples that take turns, one token a forward: `position` is 0 in each."""
    dump = write_run(tmp_path / "run", ["0"], dump="full")
    sample, position = [0, 0, 0, 7, 7, 0, 7, 0], [0, 1, 2, 0, 1, 0, 0, 0]
    forward, phase = [0, 0, 0, 1, 1, 2, 3, 4], [0, 0, 0, 0, 0, 1, 1, 1]
    columns = columns_of(sample, position, forward, phase) | routed("0", 8, seed=0, full=True)
    write_shard(dump, "language_model", 0, 0, columns)
    arrays = load(export(tmp_path / "run", "--to", "npy"))
    assert arrays["token_types"].tolist() == [[100, 101, 102, 105, 107], [103, 104, 106, -1, -1]]
    assert np.array_equal(arrays["topk_idx"][0, 0], columns["0.selected"][[0, 1, 2, 5, 7]])


def test_scores_are_needed_and_softmax_takes_their_place(tmp_path, export, assert_fails):
    dump = write_run(tmp_path / "topk", ["0"])
    write_shard(dump, "language_model", 0, 0, columns_of([0, 0], [0, 1], [0, 0]) | routed("0", 2, seed=0))
    assert_fails(
        1, "export", tmp_path / "topk", "--to", "npy", "-o", tmp_path / "out", parts=["--dump full", "layer 0"]
    )
    assert not (tmp_path / "out").exists()
    dump = write_run(tmp_path / "full", ["0"], dump="full")
    columns = columns_of([0, 0], [0, 1], [0, 0]) | routed("0", 2, seed=0, full=True)
    scores = columns.pop("0.scores")
    write_shard(dump, "language_model", 0, 0, columns)
    arrays = load(export(tmp_path / "full", "--to", "npy", notices=("softmax(logits)",)))
    assert arrays["gate_scores"][0, 0] == pytest.approx(scores, abs=1e-6)


def test_tokens_without_text_ids_are_no_padding(tmp_path, export):
    dump = write_run(tmp_path / "run", ["0"], dump="full")
    labels = columns_of([0, 0, 1], [0, 1, 0], [0, 0, 0], token_id=[-1, 5, -1])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 3, seed=0, full=True))
    arrays = load(export(tmp_path / "run", "--to", "npy", notices=("2 tokens",)))
    assert arrays["token_types"].tolist() == [[-2, 5], [-2, -1]]


def test_pruned_tokens_find_their_place(tmp_path, export):
    """Layer 1 sees tokens 0 and 2 of sample 0, in the other order, and token 1 of sample 1."""
    dump = write_run(tmp_path / "run", ["0", "1"], dump="full")
    labels = columns_of([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [0, 0, 0, 4, 4])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 5, seed=0, full=True))
    rows = [2, 0, 4]
    pruned = {name: column[rows] for name, column in labels.items()} | routed("1", 3, seed=1, full=True)
    write_shard(dump, "language_model.1", 0, 0, pruned)
    arrays = load(export(tmp_path / "run", "--to", "npy"))
    assert arrays["token_types"].tolist() == [[100, 101, 102], [103, 104, -1]]
    ids = pruned["1.selected"]
    assert np.array_equal(arrays["topk_idx"][1, 0], [ids[1], [-1, -1], ids[0]])
    assert np.array_equal(arrays["topk_idx"][1, 1, :2], [[-1, -1], ids[2]])
    assert np.array_equal(arrays["gate_scores"][1, 0, 2], pruned["1.scores"][0])
