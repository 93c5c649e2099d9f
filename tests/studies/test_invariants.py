"""What must not change a recommended number, shown by the program on random data."""

import numpy as np
import pytest
from arrays import Shape, chosen_samples, random_arrays, save_arrays, with_more_padding, with_other_padding
from comparison import differences
from routing_runs import RunShape, chosen_rows, random_run, save_run

SHAPE = Shape(lengths=(13, 4, 1, 9, 6), duplicates=0.1, out_of_range=0.1)
# Tables of one sample, which may be another one afterwards; of pairs of samples by number; of probabilities of counts.
OF_SAMPLES = ("sankey_t", "sankey_g", "sankey_expert", "expert_usage_bar", "predictability", "expert_cache")
OF_COUNTS = ("token_expert_enrichment", "input_check", "layer_activation")
SUMS = {"gate_mass", "weight", "strength", "strength_nb", "tokens", "selected_count"}  # not normalised


def values_of(table: dict[str, list[str]], without: set[str]) -> dict[str, list]:
    """Numbers where all cells are numbers, so that they are compared as such."""
    out = {}
    for name, cells in table.items():
        if name not in without:
            try:
                out[name] = [None if cell == "" else int(cell) if cell.isdigit() else float(cell) for cell in cells]
            except ValueError:
                out[name] = cells
    return out


def assert_unchanged(got: dict, expected: dict, without=frozenset(), leave_out: tuple[str, ...] = ()) -> None:
    assert list(got) == list(expected)
    found = []
    for name, table in expected.items():
        if not name.startswith(leave_out or ("\0",)):
            kept = {column: cells for column, cells in got[name].items() if column not in without}
            found += differences(name, kept, values_of(table, set(without)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("seed", range(3))
def test_arrays(seed, tables_of, tmp_path):
    arrays = random_arrays(seed, SHAPE, "float64")

    def tables(name: str, changed: dict) -> dict:
        return tables_of(save_arrays(tmp_path / name, changed))

    expected = tables("base", arrays)
    assert_unchanged(tables("padding", with_other_padding(arrays, seed + 50)), expected)
    assert_unchanged(tables("wider", with_more_padding(arrays, 3)), expected, {"strength_nb"})
    order = np.random.default_rng(seed).permutation(5).tolist()
    assert_unchanged(tables("permuted", chosen_samples(arrays, order)), expected, leave_out=OF_SAMPLES)
    twice = chosen_samples(arrays, [*range(5), *range(5)])
    assert_unchanged(tables("twice", twice), expected, SUMS, leave_out=OF_SAMPLES + OF_COUNTS)


@pytest.mark.parametrize("seed", range(2))
def test_order_of_rows(seed, tables_of, tmp_path):
    """Other shards and another order of the samples within a run: the same tables to the last bit."""
    run = random_run(seed, RunShape(full=seed == 1))
    order = np.random.default_rng(seed).permutation(int(run.sample.max()) + 1)
    # Within a forward the rows of a sample stay together and in order; the samples change places.
    rows = np.lexsort((run.position, order[run.sample], run.forward))
    expected = tables_of(save_run(tmp_path / "base", run, shards=1))
    assert tables_of(save_run(tmp_path / "other", chosen_rows(run, rows), shards=3)) == expected


def test_normalised_numbers(tables_of, tmp_path):
    arrays = random_arrays(21, Shape(lengths=(13, 4, 0, 9, 6)))
    got = tables_of(save_arrays(tmp_path / "arrays", arrays))

    def sums(table: str, by: tuple[str, ...], value: str) -> list[float]:
        totals: dict[tuple, float] = {}
        for *key, x in zip(*(got[table][name] for name in (*by, value)), strict=True):
            totals[tuple(key)] = totals.get(tuple(key), 0.0) + float(x)
        return sorted(totals.values())

    assert sums("expert_cooperation", ("layer",), "share") == pytest.approx([1] * 3)
    transitions = sums("expert_transitions", ("from_layer", "from_expert"), "probability")
    assert transitions == pytest.approx([1] * len(transitions)) and transitions
    flows = sums("information_flow", ("layer", "expert_id", "from_region"), "share")
    assert all(x == pytest.approx(1) or x == 0 for x in flows) and flows[-1] > 0.9
    evolution = got["expert_evolution_stats"]
    for name, cells in evolution.items():
        if name.endswith(("_usage", "_importance")):
            assert sum(map(float, cells)) == pytest.approx(1)


def test_uniform_attention(tables_of, tmp_path):
    """1 in every region that a sample has, and a mean distance that is that of the positions."""
    arrays = random_arrays(22, Shape(samples=2, width=17, lengths=(17, 17)), "float64")
    arrays["attention"][:] = 1 / 17
    got = tables_of(save_arrays(tmp_path / "arrays", arrays))
    table = got["region_specialization"]
    regions = [name for name in table if name not in ("layer", "expert_id", "span")]
    assert len(regions) == 6
    for name in regions:
        assert [float(x) for x in table[name] if x] == pytest.approx([1.0] * sum(x != "" for x in table[name]))
    assert any(x != "" for x in table[regions[0]])
