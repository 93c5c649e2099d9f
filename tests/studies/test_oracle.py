"""The oracle for the notebook against cases computed by hand, and against what its definitions promise."""

import math

import numpy as np
import pytest
from arrays import Shape, as_oracle, chosen_samples, random_arrays, with_more_padding, with_other_padding
from comparison import rows_of
from oracle import (
    attention,
    layers,
    residues,
    sankeys,
)
from oracle.notebook_arrays import NotebookArrays

approx = pytest.approx


@pytest.fixture
def two_tokens() -> NotebookArrays:
    """Two layers of three experts, one sample of two tokens and one of padding; the padding's numbers are ordinary."""
    gates = [
        [[[0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.9, 0.05, 0.05]]],
        [[[0.1, 0.1, 0.8], [0.6, 0.4, 0.0], [0.3, 0.3, 0.4]]],
    ]
    topk = [[[[0, 1], [2, 1], [0, 1]]], [[[2, 0], [0, 1], [2, 1]]]]
    weights = [[[[0.75, 0.25, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]]] * 2
    return NotebookArrays(np.array(gates), np.array(topk), np.array([[7, 3, -1]]), np.array(weights))


def test_layer_statistics_by_hand(two_tokens):
    rows = rows_of(layers.layer_statistics(two_tokens), "layer_statistics")
    assert rows[0] == (1, 3, approx(1.5), approx(1.5 / math.log2(3)), 1, 0.5)
    assert rows[1] == (2, 3, approx(1.5), approx(1.5 / math.log2(3)), 0, 0.5)
    with_padding = rows_of(layers.layer_statistics(two_tokens, notebook=True), "layer_statistics")
    assert with_padding[0][4:] == (1, 0.5)  # 0: 2, 1: 3, 2: 1
    assert with_padding[1][4:] == (0, approx(1 / 3))  # each 2 times
    assert with_padding[1][3] == approx(1, abs=1e-8)


def test_usage_changes_and_top_experts_by_hand(two_tokens):
    assert layers.usage(two_tokens).tolist() == [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]
    assert layers.importance(two_tokens)[0] == approx([0.5 / 1.7, 0.7 / 1.7, 0.5 / 1.7])
    assert layers.importance(two_tokens)[1] == approx([0.7 / 1.9, 0.4 / 1.9, 0.8 / 1.9])
    assert layers.importance(two_tokens, notebook=True)[0] == approx([1.4 / 2.65, 0.75 / 2.65, 0.5 / 2.65])
    change = rows_of(layers.layer_changes(two_tokens), "layer_changes")
    assert change[0][:3] == (1, 2, 0.5)
    top = rows_of(layers.top_experts(two_tokens), "top_experts")
    assert [row[:3] for row in top] == [(1, 1, 1), (1, 2, 0), (1, 3, 2), (2, 1, 2), (2, 2, 0), (2, 3, 1)]
    assert top[2][4] == approx(1)


def test_stability_by_hand():
    """Importance of 0.25 and 0.75 in turns has cv 0.5; an expert that is never used is never stable."""
    gates = np.array([[[[0.25, 0.75, 0.0]]], [[[0.75, 0.25, 0.0]]]])
    arrays = NotebookArrays(gates, np.array([[[[0, 1]]], [[[0, 1]]]]), np.array([[1]]))
    assert layers.stability(arrays) == [approx(1 / 1.5), approx(1 / 1.5), None]
    assert layers.stability(arrays, notebook=True) == [approx(0, abs=1e-9), approx(0, abs=1e-9), 1]
    assert layers.expert_stability(arrays)["expert_stability"]["expert_id"][-1] == 2


def test_transitions_by_hand(two_tokens):
    rows = rows_of(layers.expert_transitions(two_tokens), "expert_transitions")
    assert [row[:4] for row in rows] == [
        *[(1, 2, 0, 0), (1, 2, 0, 2), (1, 2, 1, 0), (1, 2, 1, 1), (1, 2, 1, 2), (1, 2, 2, 0), (1, 2, 2, 1)]
    ]
    assert [row[4] for row in rows] == approx([0.05, 0.4, 0.04 + 0.18, 0.12, 0.32, 0.3, 0.2])
    assert rows[0][5] == approx(0.05 / 0.45)


def test_cooperation_by_hand(two_tokens):
    rows = rows_of(layers.expert_cooperation(two_tokens), "expert_cooperation")
    strong, weak = math.sqrt(0.2), math.sqrt(0.15)
    assert rows[0] == (1, 0, 1, approx(strong), approx(strong / (strong + weak)), 1, approx(1))
    assert rows[1] == (1, 1, 2, approx(weak), approx(weak / (strong + weak)), 1, approx(1))
    nb = rows_of(layers.expert_cooperation(two_tokens, notebook=True), "expert_cooperation")
    assert nb[0][4] == approx(strong / (strong + weak) / 2)


def test_an_expert_in_two_slots_feeds_the_diagonal():
    arrays = NotebookArrays(np.array([[[[0.5, 0.3]]]]), np.array([[[[0, 0, 1]]]]), np.array([[1]]))
    rows = rows_of(layers.expert_cooperation(arrays), "expert_cooperation")
    assert rows == [(1, 0, 1, approx(2 * math.sqrt(0.15)), approx(1), 1, 1)]
    nb = rows_of(layers.expert_cooperation(arrays, notebook=True), "expert_cooperation")
    assert nb[0][4] == approx(2 * math.sqrt(0.15) / (4 * math.sqrt(0.15) + 2 * 0.5))


def test_attention_by_hand(two_tokens):
    summary = rows_of(attention.expert_attention_patterns(two_tokens), "expert_attention_summary")
    assert summary[0] == (1, 0, 0.5, approx(0.5 / 1.7), approx(0.25), approx(2 / 9))
    assert summary[1][2:5] == (approx(0.7), approx(0.7 / 1.7), approx((0.4 * 0.25 + 0.3 * 0.5) / 0.7))
    flow = {row[1:4]: row[4:] for row in rows_of(attention.information_flow(two_tokens), "information_flow")[:75]}
    # Boundaries of 2 tokens: 0 0 0 1 1 2, so the tokens are in regions 3 and 5.
    assert flow[0, 3, 3] == (0.75, 0.5) and flow[0, 3, 5] == (0.25, 0.5) and flow[0, 5, 5] == (0, 0)
    assert flow[1, 5, 3] == (approx(0.5), approx(0.3))
    pattern = attention.patterns(two_tokens, 0)
    assert pattern[0].tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0, 0, 0]]
    stripes = attention.notebook_patterns(two_tokens, 0)
    assert stripes[0].tolist() == [[0.75, 0.25, 0], [0.75, 0.25, 0], [0, 0, 0]]


def test_specialization_by_hand():
    """12 tokens: the band holds 6 to 11 keys, far is more than 6 away; q = 3, c = 9."""
    masks = attention.region_masks(12)
    assert masks[:, 0].sum(axis=1).tolist() == [6, 5, 3, 0, 3, 0]
    assert masks[:, 11].sum(axis=1).tolist() == [6, 5, 0, 3, 0, 3]
    assert masks[0, 6].sum() == 11
    weights = np.zeros((1, 1, 12, 12))
    weights[0, 0, :, 0] = 1  # all attend to the first
    arrays = NotebookArrays(np.ones((1, 1, 12, 1)), np.zeros((1, 1, 12, 1)), np.ones((1, 12)), weights)
    row = rows_of(attention.region_specialization(arrays), "region_specialization")[0]
    assert row[2] == approx(6 / (masks[0].sum() / 12))
    assert row[3] == approx(5 / (masks[1].sum() / 12))
    assert row[4:8] == approx((3 / (9 / 12), 0, 0, 3 / (9 / 12)))
    assert row[8] == approx(max(row[2:8]))


def test_sankeys_by_hand(two_tokens):
    links = rows_of(sankeys.sankey_token_expert(two_tokens, 0, 0), "sankey_token_expert")
    assert [link[3] for link in links] == approx([0.5, 0.4, 0.5, 0.3, 0.5 * 1.25, 0.4 * 1.25 + 0.3 * 0.75, 0.5 * 0.75])
    bars = rows_of(sankeys.expert_usage_bar(two_tokens, 0, 0), "expert_usage_bar")
    assert [row[1] for row in bars] == [1, 0, 2]
    evolution = rows_of(sankeys.sankey_evolution(two_tokens), "sankey_evolution")
    assert sum(link[3] for link in evolution) == approx(1) and evolution[0][1] == ("layer_expert", 0, 1)
    tail = np.array([[5] + [9] * 10, [1] * 3 + [-1] * 8])
    assert sankeys.guessed_padding(tail) == 9 and sankeys.guessed_padding(tail[1:]) == -1


def test_residues_by_hand():
    assert residues.read_fasta("AC\n>one\n\n>two\nA C\nDX\n") == ["AC", "A CDX"]
    fractions = dict(zip(residues.STANDARD, residues.frequencies(["aC-*", "AX"]), strict=True))
    assert fractions["A"] == approx(2 / 3) and fractions["C"] == approx(1 / 3)
    assert residues.frequencies(["aC-*", "AX"], notebook=True)[0] == approx(1 / 6)
    values = residues.correlation(["AC", "AAC", "CCA", "XX"])
    assert values[0, 1] == approx(-1) and np.isnan(values[0, 2]) and values[0, 0] == approx(1)


def test_uniform_attention_is_no_specialization():
    arrays = random_arrays(0, Shape(width=23))
    for sample, line in enumerate(arrays["tokens"]):
        n = int((line != -1).sum())
        arrays["attention"][:, sample, :n, :n] = 1 / n
    for row in rows_of(attention.region_specialization(as_oracle(arrays)), "region_specialization"):
        assert [x for x in row[2:8] if x is not None] == approx([1.0] * sum(x is not None for x in row[2:8]), rel=1e-5)


NOTEBOOK_STUDIES = [
    *(layers.layer_statistics, layers.expert_usage, layers.layer_changes, layers.top_experts, layers.expert_stability),
    *(layers.expert_transitions, layers.expert_evolution_stats, layers.expert_cooperation),
    *(attention.expert_attention_patterns, attention.information_flow, attention.region_specialization),
]
SUMS = {"gate_mass", "weight", "strength", "strength_nb", "tokens"}  # not normalised


def assert_alike(a: dict, b: dict, without=frozenset()) -> None:
    for name, columns in a.items():
        assert list(columns) == list(b[name])
        for column in set(columns) - set(without):
            x, y = ([math.nan if v is None else v for v in t[name][column]] for t in (a, b))
            assert x == approx(y, rel=1e-9, abs=1e-12, nan_ok=True), (name, column)


@pytest.mark.parametrize("study", NOTEBOOK_STUDIES, ids=lambda study: study.__name__)
def test_what_changes_no_recommended_number(study):
    arrays = random_arrays(1, Shape(lengths=(13, 4, 1, 9, 6), duplicates=0.1, out_of_range=0.1), "float64")
    expected = study(as_oracle(arrays))
    assert_alike(study(as_oracle(with_other_padding(arrays, 5))), expected)
    assert_alike(study(as_oracle(with_more_padding(arrays, 3))), expected, {"strength_nb"})
    assert_alike(study(as_oracle(chosen_samples(arrays, [3, 0, 4, 2, 1]))), expected)
    assert_alike(study(as_oracle(chosen_samples(arrays, [*range(5), *range(5)]))), expected, SUMS)


def test_normalised_tables_sum_to_one():
    arrays = as_oracle(random_arrays(2, Shape(layers=2, experts=4), "float64"))
    assert layers.usage(arrays).sum(axis=1) == approx(np.ones(2))
    assert layers.importance(arrays).sum(axis=1) == approx(np.ones(2))
    patterns = attention.patterns(arrays, 1).sum(axis=2)
    assert np.all((np.abs(patterns - 1) < 1e-9) | (patterns == 0))
    shares = layers.expert_cooperation(arrays)["expert_cooperation"]
    assert sum(s for s, layer in zip(shares["share"], shares["layer"], strict=True) if layer == 1) == approx(1)
    links = rows_of(sankeys.sankey_group_expert_region(arrays, 0, 0), "sankey_group_expert_region")
    used = sankeys.expert_usage_of(arrays, 0, 0, arrays.length(0))
    assert sum(link[3] for link in links if link[0] == 2) == approx(used.sum())
