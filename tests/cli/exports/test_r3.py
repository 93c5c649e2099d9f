"""Routed experts of each sample, [S, L, K] int32, as vLLM and SGLang return them."""

import numpy as np
from conftest import dump_of
from synthetic_dump import columns_of, routed, write_run, write_shard


def test_a_file_a_sample_holds_all_layers(recorded, export):
    folder = export(recorded, "--to", "r3")
    dump = dump_of(recorded)
    assert sorted(path.name for path in folder.glob("*.npy")) == [f"sample-{i:06}.npy" for i in range(5)]
    for sample in range(5):
        ids = np.load(folder / f"sample-{sample:06}.npy")
        rows = dump["sample"] == sample
        assert ids.dtype == np.int32
        assert np.array_equal(ids, np.stack([dump["0.selected"][rows], dump["1.selected"][rows]], axis=1))


def test_a_layer_that_did_not_see_a_token_is_a_gap(tmp_path, export):
    dump = write_run(tmp_path / "run", ["0", "1"])
    labels = columns_of([0, 0, 3], [0, 1, 0], [0, 0, 0])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 3, seed=0))
    pruned = {name: column[[1]] for name, column in labels.items()} | routed("1", 1, seed=1)
    write_shard(dump, "language_model.1", 0, 0, pruned)
    folder = export(tmp_path / "run", "--to", "r3")
    assert np.load(folder / "sample-000000.npy")[:, 1].tolist() == [[-1, -1], pruned["1.selected"][0].tolist()]
    assert np.load(folder / "sample-000003.npy")[:, 1].tolist() == [[-1, -1]]


def test_samples_of_two_ranks_with_the_same_number_are_two(tmp_path, export):
    dump = write_run(tmp_path / "run", ["0"], ranks=2)
    shards = []
    for rank in range(2):
        shards.append(columns_of([0, 1], [0, 0], [0, 0]) | routed("0", 2, seed=rank))
        write_shard(dump.parent / f"rank{rank}", "language_model", 0, 0, shards[-1], rank)
    folder = export(tmp_path / "run", "--to", "r3")
    for rank in range(2):
        for sample in range(2):
            ids = np.load(folder / f"rank{rank}-sample-{sample:06}.npy")
            assert ids.tolist() == [[shards[rank]["0.selected"][sample].tolist()]]
