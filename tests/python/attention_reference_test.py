"""The reference of what is recorded of attention, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conformance_checks.attention_reference import (
    AttentionCall,
    concatenate,
    measure,
    parts,
    row_table,
    standard_error,
    summarise,
    summarise_experts,
    summarise_samples,
)


def call_of(probabilities, **fields) -> AttentionCall:
    """Probabilities [B, H, Sq, Sk], all tokens valid unless `fields` say otherwise."""
    array = np.array(probabilities, float)
    batch, _, queries, keys = array.shape
    positions = {
        "query_position": np.tile(np.arange(queries), (batch, 1)),
        "key_position": np.tile(np.arange(keys), (batch, 1)),
    }
    return AttentionCall(array, **(positions | fields))


def close(expected):
    return pytest.approx(expected, abs=1e-12)


# Two heads of three tokens, which look back only.
FIRST = [[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]
SECOND = [[1, 0, 0], [0, 1, 0], [0.75, 0, 0.25]]


@pytest.fixture
def three() -> AttentionCall:
    return call_of([[FIRST, SECOND]], num_regions=3)


def test_three_tokens_by_hand(three):
    rows = measure(three)
    values = rows.values
    ln2 = math.log(2)
    last_entropies = [1.5 * ln2, -0.75 * math.log(0.75) + 0.5 * ln2]
    assert values["entropy"].tolist() == close([0, ln2 / 2, sum(last_entropies) / 2])
    assert values["max_weight"].tolist() == close([1, 0.75, 0.625])
    assert values["key_mass"].tolist() == close([1, 1, 1])
    # Mean of heads: [1, 0, 0], [.25, .75, 0], [.5, .125, .375].
    assert values["distance"].tolist() == close([0, 0.25, 1.125])
    assert values["self"].tolist() == close([1, 0.75, 0.375])
    assert values["received"].tolist() == close([1.75, 0.875, 0.375])
    assert values["far"].tolist() == close([0, 0, 0.5])  # beyond 3 div 2 = 1
    assert values["far_expected"].tolist() == close([1 / 3, 0, 1 / 3])
    assert values["diagonal"].tolist() == values["diagonal_expected"].tolist() == close([1, 1, 1])
    assert values["first"].tolist() == values["last"].tolist() == close([1, 1, 1])
    assert values["region_mass"] == close(np.array([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]]))
    assert rows.heads["entropy"] == close(np.array([[0, 0], [ln2, 0], last_entropies]))
    assert rows.heads["distance"] == close(np.array([[0, 0], [0.5, 0], [0.75, 1.5]]))
    names, table = row_table(rows)
    assert names[:5] == ["entropy", "max_weight", "key_mass", "distance", "self"]
    assert names[9:] == ["first", "last", "region.0", "region.1", "region.2", "received"]
    assert table[2, names.index("region.1")] == close(0.125)


def test_three_tokens_summed_up(three):
    summary = summarise(measure(three))
    assert (summary["rows"], summary["empty_rows"]) == (3, 0)
    assert summary["distance"] == close(1.375 / 3)
    assert summary["received"] == close(1)
    assert summary["region_mass"] == close([1.75 / 3, 0.875 / 3, 0.375 / 3])
    assert summary["flow"] == [close([1, 0, 0]), close([0.25, 0.75, 0]), close([0.5, 0.125, 0.375])]
    assert summary["specialization"]["far"] == close(0.5 / (2 / 3))
    assert summary["specialization"]["n_terminal"] is None  # 3 div 4 = 0: no token is there
    # The last quarter begins at 9 div 4 = 2: token 2 attends to itself, one of three keys.
    assert summary["specialization"]["c_terminal"] == close(0.375 * 3)
    assert summary["head_entropy"] == close([2.5 * math.log(2) / 3, (-0.75 * math.log(0.75) + 0.5 * math.log(2)) / 3])
    assert summary["head_distance"] == close([1.25 / 3, 0.5])
    assert summary["head_first"] == close([1, 1])
    assert "head_max_logit" not in summary


@pytest.mark.parametrize("length", [1, 7, 40])
def test_uniform_attention_has_no_preference(length):
    rows = measure(call_of(np.full((2, 3, length, length), 1 / length)))
    summary = summarise(rows)
    assert summary["entropy"] == close(math.log(length))
    assert summary["max_weight"] == close(1 / length)
    assert summary["distance"] == close(np.abs(np.subtract.outer(range(length), range(length))).mean())
    assert summary["received"] == close(1)
    assert summary["first"] == summary["last"] == close(min(4, length) / length)
    specialization = [value for value in summary["specialization"].values() if value is not None]
    assert specialization == close([1] * len(specialization))
    assert len(specialization) == (6 if length > 3 else 2)
    lengths = np.bincount(parts(np.arange(length), np.int64(length), 5), minlength=5)
    assert summary["region_mass"] == close(lengths / length)


def test_each_token_to_itself():
    summary = summarise(measure(call_of(np.tile(np.eye(40), (1, 2, 1, 1)))))
    assert (summary["entropy"], summary["distance"], summary["far"]) == (0, 0, 0)
    assert summary["self"] == summary["received"] == summary["diagonal"] == 1
    assert summary["flow"] == np.eye(5).tolist()
    specialization = summary["specialization"]
    assert (specialization["n_terminal"], specialization["c_terminal"]) == close((4, 4))
    assert (specialization["n_to_c"], specialization["c_to_n"], specialization["far"]) == (0, 0, 0)
    # 11 keys of 40 in the band, less at both ends.
    assert specialization["diagonal"] == close(40 * 40 / (40 * 11 - 2 * 15))


def test_padding_on_either_side_changes_nothing():
    generator = np.random.default_rng(0)
    plain = generator.dirichlet(np.ones(6), size=(1, 2, 6))
    noise = generator.random((1, 2, 9, 9))

    def padded(left: int) -> AttentionCall:
        array = noise.copy()
        array[:, :, left : left + 6, :] = 0
        array[:, :, left : left + 6, left : left + 6] = plain
        position = np.full((1, 9), -1)
        position[0, left : left + 6] = np.arange(6)
        return AttentionCall(array, position, position)

    expected = summarise(measure(call_of(plain)))
    for left in (0, 1, 3):
        assert summarise(measure(padded(left))) == expected


def test_a_cache_gives_the_rows_of_the_whole_text(three):
    whole = measure(three)
    prompt = AttentionCall(
        three.probabilities[:, :, :2, :2], np.array([[0, 1]]), np.array([[0, 1]]), num_regions=three.num_regions
    )
    step = AttentionCall(
        three.probabilities[:, :, 2:], np.array([[2]]), np.array([[0, 1, 2]]), num_regions=three.num_regions
    )
    rows = concatenate([measure(prompt), measure(step)])
    assert rows.position.tolist() == [0, 1, 2] and rows.num_keys.tolist() == [2, 2, 3]
    for name in ("distance", "entropy", "self", "diagonal"):
        assert rows.values[name].tolist() == close(whole.values[name].tolist())
    assert rows.values["received"].tolist() == close([1.25, 0.75, 0.375])  # from the rows of the same forward


def test_mass_that_a_sink_takes_is_missing_from_key_mass_alone():
    attention = call_of([[[[0.25, 0.25], [0.1, 0.3]], [[0.5, 0.5], [0.0, 0.2]]]])
    values = measure(attention).values
    assert values["key_mass"].tolist() == close([0.75, 0.3])
    assert values["self"].tolist() == close([0.5, (0.75 + 1) / 2])  # each head counts alike
    assert values["max_weight"].tolist() == close([0.5, (0.75 + 1) / 2])


@pytest.mark.parametrize("nothing", [0.0, math.nan])
def test_a_row_without_keys_is_counted_and_is_no_row(nothing):
    attention = call_of([[[[nothing, nothing], [0.5, 0.5]]]])
    rows = measure(attention)
    assert (rows.place.tolist(), rows.empty_rows) == ([1], 1)
    assert all(np.isfinite(value).all() for value in rows.values.values())
    assert rows.values["received"].tolist() == [0.5]


def test_nothing_but_padding_is_no_row():
    attention = call_of([[[[1.0]]]], query_position=np.array([[-1]]), key_position=np.array([[-1]]))
    summary = summarise(measure(attention))
    assert (summary["rows"], summary["empty_rows"], summary["entropy"]) == (0, 0, None)
    assert summarise_samples(measure(attention)) == []


def test_largest_score_leaves_masked_keys_and_padding_out():
    scores = [[[[1.0, -math.inf, 9.0], [2.0, 3.0, 9.0], [9.0, 9.0, 9.0]]]]
    position = np.array([[0, 1, -1]])
    attention = call_of(
        [[[[1, 0, 0], [0.3, 0.7, 0], [0.4, 0.3, 0.3]]]],
        query_position=position,
        key_position=position,
        scores=np.array(scores),
    )
    assert summarise(measure(attention))["head_max_logit"] == [3.0]


def test_cross_attention_has_no_self_and_receives_nothing():
    rows = measure(call_of(np.full((1, 1, 2, 5), 0.2), self_attention=False))
    assert "self" not in rows.values and "received" not in rows.values
    assert rows.values["distance"].tolist() == close([2, (1 + 0 + 1 + 2 + 3) / 5])
    assert rows.region.tolist() == [2, 4]  # halves of the queries' own sequence, in parts of five
    assert rows.values["region_mass"] == close(np.full((2, 5), 0.2))


def test_given_regions_are_taken(three):
    three.query_region = three.key_region = np.array([[1, 0, 1]])
    three.num_regions = 2
    summary = summarise(measure(three))
    assert summary["flow"] == [close([0.75, 0.25]), close([0.0625, 0.9375])]


def test_means_alone_give_what_is_linear(three):
    mean = call_of(three.probabilities.mean(axis=1, keepdims=True), heads_known=False, num_regions=3)
    summary, expected = summarise(measure(mean)), summarise(measure(three))
    assert "entropy" not in summary and "max_weight" not in summary and "head_distance" not in summary
    for name in ("distance", "self", "far", "received", "region_mass", "key_mass", "flow", "specialization"):
        assert summary[name] == expected[name], name


def test_sampled_rows_scale_what_is_received(three):
    three.sampled = np.array([[True, False, True]])
    rows = measure(three)
    assert rows.place.tolist() == [0, 2]
    # Token 0 has 1 and 0.5 from the two rows that are measured, of three.
    assert rows.values["received"].tolist() == close([1.5 * 3 / 2, 0.375 * 3 / 2])
    assert standard_error(np.array([1.0, 2.0, 3.0])) == close(1 / math.sqrt(3))


def test_samples_of_the_log():
    attention = call_of([[[[1, 0], [1, 0]]], [[[0, 1], [0, 1]]]], num_regions=2)
    first, second = summarise_samples(measure(attention))
    assert (first["distance"], second["distance"], first["region_mass"]) == (0.5, 0.5, [1, 0])
    assert first.keys() == {"entropy", "max_weight", "distance", "first", "region_mass"}


def test_experts_of_three_tokens(three):
    ids = np.array([[0, 1], [1, -1], [0, 0]])
    weights = np.array([[0.5, 0.25], [0.75, 9.0], [0.25, 0.25]])
    experts = summarise_experts(measure(three), ids, weights, num_experts=3)
    assert experts["gate_mass"] == close([1, 1, 0])
    assert experts["mean_distance"] == [close(0.5 * 1.125), close(0.75 * 0.25), None]
    assert experts["received"] == close([0.5 * 1.75 + 0.5 * 0.375, 0.25 * 1.75 + 0.75 * 0.875, 0])
    assert experts["flow_weight"] == [close([0.5, 0, 0.5]), close([0.25, 0.75, 0]), close([0, 0, 0])]
    assert experts["flow"][0] == [close([1, 0, 0]), [0, 0, 0], close([0.5, 0.125, 0.375])]
    assert experts["specialization"][0][1] == close(0.25 / (1 / 3))
    assert experts["specialization"][2] == [None] * 6
    pattern = np.array(experts["pattern"])
    assert pattern.shape == (3, 16, 16)
    assert pattern[0, 0, 0] == close(1) and pattern[0, 10, [0, 5, 10]].tolist() == close([0.5, 0.125, 0.375])
    assert pattern[0, 5].sum() == 0 and pattern[1, 5].sum() == close(1)


def test_one_expert_with_gates_of_one_is_the_layer(three):
    rows = measure(three)
    experts = summarise_experts(rows, np.zeros((3, 1), int), np.ones((3, 1)), num_experts=1)
    summary = summarise(rows)
    assert experts["flow"][0] == summary["flow"]
    assert experts["mean_distance"][0] == close(summary["distance"])
    assert experts["specialization"][0] == list(summary["specialization"].values())
