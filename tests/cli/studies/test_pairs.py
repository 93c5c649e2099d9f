"""Two runs: which of their tokens are the same, and what `moetap check` says about the rest."""

import json

import numpy as np
import pytest
from conftest import files_of, read_table
from synthetic_dump import columns_of, routed, write_run, write_shard

ONLY = ["--only", "alignment"]
LENGTH = 3


def notices(folder) -> list[str]:
    analysis = json.loads((folder / "analysis.json").read_text())
    return analysis["notices"] + analysis["components"]["language_model"]["alignment"]["notices"]


def write_ranks(folder, ranks: list[list[int]]):
    """Samples, by number, on ranks; what a sample's tokens chose does not depend on where it lay."""
    for rank, samples in enumerate(ranks):
        dump = write_run(folder, ["0"], ranks=len(ranks)).parent / f"rank{rank}"
        rows = [(sample, position) for sample in samples for position in range(LENGTH)]
        labels = columns_of(*np.transpose(rows), [sample for sample, _ in rows], token_id=[s * 7 + p for s, p in rows])
        parts = [routed("0", LENGTH, seed=sample) for sample in samples]
        chosen = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        write_shard(dump, "language_model", 0, 0, labels | chosen, rank=rank)
    return folder


@pytest.mark.parametrize("others", [[[0, 1], [2, 3]], [[0, 1, 2, 3]], [[3], [1], [0, 2]]])
def test_samples_on_other_ranks_are_the_same(analyze, tmp_path, others):
    a, b = write_ranks(tmp_path / "a", [[0, 2], [1, 3]]), write_ranks(tmp_path / "b", others)
    folder = analyze(a, b, *ONLY)
    table = read_table(folder / "alignment.csv")
    assert (table["tokens"], table["unmatched_a"], table["unmatched_b"]) == (["12"], ["0"], ["0"])
    assert table["same_set"] == ["1"]
    samples = read_table(folder / "alignment_samples.csv")
    assert samples["sample"] == ["0", "1", "2", "3"] and samples["tokens"] == ["3"] * 4
    assert notices(folder) == []


def test_a_sample_that_one_run_has_more_of_is_one_sample(analyze, tmp_path):
    """Rows of B alone stand among those of A, and on another rank."""
    a, b = write_ranks(tmp_path / "a", [[0], [1]]), write_ranks(tmp_path / "b", [[1], [0]])
    (shard,) = (a / "moetap/dump/rank1").glob("*.safetensors")
    shard.unlink()
    labels = columns_of([1, 1], [0, 2], [1, 1], token_id=[7, 9])
    whole = routed("0", LENGTH, seed=1)
    write_shard(shard.parent, "language_model", 0, 0, labels | {name: of[[0, 2]] for name, of in whole.items()}, rank=1)
    folder = analyze(a, b, *ONLY)
    table = read_table(folder / "alignment.csv")
    assert (table["tokens"], table["unmatched_a"], table["unmatched_b"]) == (["5"], ["0"], ["1"])
    samples = read_table(folder / "alignment_samples.csv")
    assert samples["sample"] == ["0", "1"] and samples["tokens"] == ["3", "2"]


def test_numbers_that_come_in_several_ranks_are_joined_by_rank(analyze, tmp_path):
    a, b = write_ranks(tmp_path / "a", [[0, 1], [0]]), write_ranks(tmp_path / "b", [[0], [0, 1]])
    folder = analyze(a, b, *ONLY)
    table = read_table(folder / "alignment.csv")
    assert (table["tokens"], table["unmatched_a"], table["unmatched_b"]) == (["6"], ["3"], ["3"])
    (line,) = notices(folder)
    assert "several ranks" in line and "--relabel" in line


def write_tokens(folder, token_ids, layers=("0",), component="language_model"):
    dump = write_run(folder, list(layers), component=component)
    columns = columns_of([0] * len(token_ids), range(len(token_ids)), [0] * len(token_ids), token_id=token_ids)
    for layer in layers:
        columns |= routed(layer, len(token_ids), seed=int(layer))
    write_shard(dump, component, 0, 0, columns)
    return folder


def test_other_tokens_at_the_same_place_are_no_partners(moetap, analyze, tmp_path):
    a = write_tokens(tmp_path / "a", [5, 6, 7, -1, 9])
    b = write_tokens(tmp_path / "b", [5, 8, 8, 3, -1])
    folder = analyze(a, b, *ONLY)
    table = read_table(folder / "alignment.csv")
    assert (table["tokens"], table["unmatched_a"], table["unmatched_b"]) == (["3"], ["2"], ["2"])
    (line,) = notices(folder)
    assert "2 tokens have another id" in line
    partials = []
    for shard in range(2):
        partials.append(tmp_path / f"part{shard}")
        done = moetap("analyze", a, b, *ONLY, "--shard", f"{shard}/2", "-o", partials[-1])
        assert done.returncode == 0, done.stderr
    merged = tmp_path / "merged"
    files = [folder / "partial.bin" for folder in partials]
    assert moetap("analyze", "--merge", *files, "-o", merged).returncode == 0
    assert files_of(merged) == files_of(folder)
    done = moetap("check", a, b, "--min-overlap", "0.5")
    assert done.returncode == 0
    assert "layer 0: 3 rows compared; without a partner 2 of " in done.stderr and "another id" in done.stderr


def test_a_layer_that_one_run_alone_has_fails_by_name(moetap, tmp_path):
    a, b = write_tokens(tmp_path / "a", [5, 6], ["0", "1"]), write_tokens(tmp_path / "b", [5, 6])
    done = moetap("check", a, b, "--min-overlap", "0.5")
    assert done.returncode == 1
    assert done.stdout == f"{a} and {b}: language_model layer 1: is not compared: only {a} has it\n"


def test_a_component_that_one_run_alone_has_fails_by_name(moetap, tmp_path):
    a, b = write_tokens(tmp_path / "a", [5, 6]), write_tokens(tmp_path / "b", [5, 6])
    summary = b / "moetap/summary.json"
    manifest = b / "moetap/manifest.json"
    held, about = json.loads(summary.read_text()), json.loads(manifest.read_text())
    held["components"]["vision_tower"] = held["components"]["language_model"]
    about["hooks"].append(about["hooks"][0] | {"id": 1, "component": "vision_tower"})
    summary.write_text(json.dumps(held))
    manifest.write_text(json.dumps(about))
    for runs in ((a, b), (b, a)):
        done = moetap("check", *runs, "--min-overlap", "0.5")
        assert done.returncode == 1
        assert done.stdout.endswith(f"vision_tower layer 0: is not compared: only {b} has it\n")


def test_tokens_of_no_known_sample_count_and_have_no_partner(analyze, tmp_path):
    for name, sample in (("a", [0, 0, -1, -1, -1]), ("b", [0, 0, 0, -1, -1])):
        labels = columns_of(sample, range(5), [0] * 5)
        write_shard(write_run(tmp_path / name, ["0"]), "language_model", 0, 0, labels | routed("0", 5, seed=3))
    folder = analyze(tmp_path / "a", tmp_path / "b", "--only", "alignment,usage_comparison")
    table = read_table(folder / "alignment.csv")
    assert (table["tokens"], table["unmatched_a"], table["unmatched_b"]) == (["2"], ["3"], ["3"])
    assert read_table(folder / "alignment_samples.csv")["sample"] == ["0"]
    table = read_table(folder / "usage_comparison.csv")
    counts = np.bincount(routed("0", 5, seed=3)["0.selected"].ravel(), minlength=8) / 5
    assert [float(cell) for cell in table["a"]] == pytest.approx(counts)
    assert table["a"] == table["b"] and set(table["diff"]) == {"0"}


def test_usage_is_compared_without_samples(analyze, tmp_path):
    for name in ("a", "b"):
        labels = columns_of([-1] * 4, range(4), [0] * 4)
        write_shard(write_run(tmp_path / name, ["0"]), "language_model", 0, 0, labels | routed("0", 4, seed=ord(name)))
    table = read_table(analyze(tmp_path / "a", tmp_path / "b", "--only", "usage_comparison") / "usage_comparison.csv")
    assert sum(map(float, table["a"])) == sum(map(float, table["b"])) == 2
