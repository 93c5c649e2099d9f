"""The oracle for runs, logs and training against cases that were computed by hand."""

import math

import numpy as np
import pytest
from comparison import rows_of
from oracle import (
    activation3d,
    alignment,
    enrichment,
    expert_cache,
    groups,
    libmoe,
    matching,
    placement,
    predictability,
    usage,
)
from oracle.routing_run import Layer, RoutingRun, percentile
from routing_runs import RunShape, perturbed, random_run

approx = pytest.approx


def small_run(selected, weights, num_experts, sample=None, phase=None, forward=None, token_id=None, position=None):
    count = len(selected)
    layer = Layer(num_experts, np.array(selected), np.array(weights, float))

    def column(values, default):
        return np.array(default if values is None else values)

    return RoutingRun(
        sample=column(sample, [0] * count),
        position=column(position, range(count)),
        token_id=column(token_id, [0] * count),
        phase=column(phase, [0] * count),
        forward=column(forward, [0] * count),
        layers={"0": layer},
    )


def test_alignment_by_hand():
    a = small_run([[0, 1], [2, 3], [0, 2]], [[0.6, 0.4], [0.5, 0.5], [1, 0]], 4)
    b = small_run([[1, 0], [3, 0], [0, 3]], [[0.4, 0.6], [0.9, 0.1], [0.7, 0.3]], 4)
    row = rows_of(alignment.alignment(a, b), "alignment")[0]
    assert row[2:5] == (3, 0, 0)
    assert row[5:9] == approx((1 / 3, 2 / 3, (1 + 1 / 2 + 1 / 2) / 3, (0 + 0.5 + 0.4 + 0.1 + 0.3 + 0.3) / 3))
    samples = rows_of(alignment.alignment_samples(a, b), "alignment_samples")
    assert samples == [("language_model", 0, 3, approx(2 / 3), 1)]
    again = rows_of(alignment.alignment(a, a), "alignment")[0]
    assert again[5:9] == (1, 1, 1, 0)


def test_expert_cache_by_hand():
    """One expert a token: 0 1 0 2 0 1, all generated."""
    ids = [0, 1, 0, 2, 0, 1]
    run = small_run([[e] for e in ids], [[1.0]] * 6, 3, phase=[1] * 6, forward=range(6))
    rows = rows_of(expert_cache.expert_cache(run), "expert_cache")
    assert [row[2:4] for row in rows] == [(1, 6), (2, 6), (3, 6)]
    assert [row[4] for row in rows] == approx([0, 2 / 6, 3 / 6])  # LRU of 2: both later 0s hit, the last 1 was put out
    assert [row[5] for row in rows] == approx([0, 2 / 6, 3 / 6])
    assert [row[6] for row in rows] == approx([3 / 6, 5 / 6, 1])


def test_a_prompt_fills_the_cache():
    """Two prompt tokens of one forward use experts 0 1 once each; the generated token then hits both."""
    run = small_run([[0, 1], [1, 0], [1, 0]], [[0.6, 0.4]] * 3, 3, phase=[0, 0, 1], forward=[0, 0, 1])
    rows = rows_of(expert_cache.expert_cache(run), "expert_cache")
    assert [row[3:6] for row in rows] == [(2, 0.5, 0.5), (2, 1, 1), (2, 1, 1)]
    rows = rows_of(expert_cache.expert_cache(run, counted="all"), "expert_cache")
    assert [row[3] for row in rows] == [4, 4, 4]


def most_hits(accesses: list[int], capacity: int, cache: frozenset = frozenset()) -> int:
    """Of all ways to choose what is put out; what is asked for is always fetched."""
    if not accesses:
        return 0
    expert, rest = accesses[0], accesses[1:]
    if expert in cache:
        return 1 + most_hits(rest, capacity, cache)
    if len(cache) < capacity:
        return most_hits(rest, capacity, cache | {expert})
    return max(most_hits(rest, capacity, cache - {out} | {expert}) for out in cache)


@pytest.mark.parametrize("seed", range(20))
def test_the_optimal_cache_is_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    accesses = random.integers(0, 5, 11).tolist()
    for capacity in range(1, 5):
        hits = expert_cache.optimal_hits([(e, True) for e in accesses], capacity, set())
        assert hits == most_hits(accesses, capacity)


@pytest.mark.parametrize("seed", range(3))
def test_no_cache_is_better_than_the_optimal_one(seed):
    rows = rows_of(expert_cache.expert_cache(random_run(seed, RunShape())), "expert_cache")
    for row, previous in zip(rows, [None, *rows], strict=False):
        assert row[4] <= row[5] + 1e-12
        if previous is not None and previous[1] == row[1]:
            assert row[4] >= previous[4] and row[5] >= previous[5] and row[6] >= previous[6]


def test_placement_and_imbalance_by_hand():
    counts = [5, 4, 1, 0]
    assert placement.contiguous(4, 2) == [0, 0, 1, 1]
    assert placement.balanced(counts, 2) == [0, 1, 1, 0]
    run = small_run([[0]] * 5 + [[1]] * 4 + [[2]], [[1.0]] * 10, 4, forward=[0] * 5 + [1] * 5)
    rows = rows_of(placement.placement(run), "placement")
    assert rows[0][2:] == (2, "balanced", 1, None, None, None, 1)
    assert rows[1][2:] == (2, "contiguous", approx(1.8), None, None, None, 1)
    assert [row[2] for row in rows] == [2, 2, 4, 4]
    assert rows_of(placement.imbalance(run), "imbalance")[0][2:] == (2, 2, approx(3.6), approx(3.96), 4)
    assert percentile([1, 2, 3, 4], 0.5) == 2.5


def test_predictability_by_hand():
    """Expert 0 leads to 1 and expert 1 to 0 in both samples; token ids tell nothing."""
    ids = [[0], [0], [1], [0], [1]]
    run = small_run(ids, [[1.0]] * 5, 2, sample=[0, 0, 0, 1, 1])
    run.layers["1"] = Layer(2, 1 - np.array(ids), np.ones((5, 1)))
    row = rows_of(predictability.predictability(run), "predictability")[0]
    assert row == ("language_model", "0", "1", 2, 0.5, 1, 0.5)
    run.sample[:] = 0
    assert rows_of(predictability.predictability(run), "predictability")[0][4:] == (None, None, None)


def test_enrichment_by_hand():
    """20 tokens, 5 with id 7, all of them at expert 1, which has one more: P = C(6,5) C(14,0) / C(20,5)."""
    assert enrichment.upper_tail(20, 6, 5, 5) == pytest.approx(6 / 15504)
    assert [float(p) for p in enrichment.benjamini_hochberg([0.01, 0.04, 0.03])] == approx([0.03, 0.04, 0.04])
    ids = [[1]] * 6 + [[0]] * 14
    tokens = [7] * 5 + [1, 2, 3, 4, 5] * 3
    run = small_run(ids, [[1.0]] * 20, 2, token_id=tokens)
    rows = rows_of(enrichment.token_expert_enrichment(run, "abcdefgh"), "token_expert_enrichment")
    assert rows == [("language_model", "0", 1, 7, "h", 5, approx(20 / 6), approx(6 / 15504))]


def test_groups_by_hand():
    run = small_run([[0], [0], [1], [1]], [[1.0]] * 4, 2, sample=[0, 0, 1, 1])
    run.docs = [{"category": "x"}, {"category": "y"}]
    assert rows_of(groups.group_difference(run, "category"), "group_difference")[0][2:] == ("x", "y", 1)
    assert groups.group_usage(run, "category")["group_usage"]["usage"] == [1, 0, 0, 1]


def test_usage_and_matching_by_hand():
    a = small_run([[0], [0], [1], [2]], [[1.0]] * 4, 3)
    b = small_run([[2], [2], [0], [1]], [[1.0]] * 4, 3)
    rows = rows_of(matching.matching(a, b), "matching")
    assert [row[2:5] for row in rows] == [(0, 2, 1), (1, 0, 1), (2, 1, 1)]
    comparison = rows_of(usage.usage_comparison(a, b), "usage_comparison")
    assert comparison[0] == ("0", 0, 0.5, 0.25, 0.25, approx(1 / 3), "a")
    assert usage.in_range(a, "-2:") == [2, 3] and usage.usage_of(a, "0", []) == [None] * 3
    assert usage.load_cv([2, 0]) == approx(math.sqrt(2)) and usage.gini([1, 1]) == 0 and usage.gini([2, 0]) == 0.5
    assert usage.jain([2, 0]) == 0.5


def test_libmoe_by_hand():
    def log(selected, margins):
        layer = {"entropy_weight_topk": 0.5, "router_magine": margins, "dist_experts_top1": [2, 2], "diver_loss": 0.1}
        entry = {
            "doc_id": 0,
            "doc": {"category": "x"},
            "logs_metrics_vision": [[{"0": layer | {"selected_experts": selected}}]],
        }
        return {"logs": [entry]}

    a, b = log([0, 1, 2, 3], [0.1, 0.3]), log([0, 1, 3, 2], [0.2])
    assert libmoe.switch_fraction([a, b, a]) == {(0, "0"): 0.5, (1, "0"): 0.5}
    assert libmoe.saturation([b, a, a]) == {(0, "0"): 0.5, (1, "0"): 1}
    assert libmoe.entropy_and_margin(a) == {"0": (0.5, approx(0.2))}
    assert libmoe.category_entropy(a) == {("0", "x"): approx(1)} and libmoe.diversity(a) == {"0": 0.1}


def test_activation_studies_by_hand():
    average, variance = activation3d.profiles([[[0.5, 0.5], [1, 0]], [[0.25, 0.75], [0.25, 0.75]]])
    assert average.tolist() == [[0.75, 0.25], [0.25, 0.75]] and variance[0] == approx([0.125, 0.125])
    assert activation3d.layer_correlations(average) == {(0, 1): approx(-1)}
    assert activation3d.correlation(np.ones(3), np.arange(3)) is None
    profiles = np.array([[0.1 * (i % 12), 0.5, 0.2] for i in range(26)])
    assert activation3d.periodic_patterns(profiles)[12] == (approx(1), approx(0, abs=1e-9), "strong")
    assert activation3d.periodic_patterns(profiles)[36] == (None, None, None)
    assert activation3d.router_similarity(np.eye(2), -np.eye(2)) == approx(-1)


def test_a_run_aligns_with_itself():
    run = random_run(3, RunShape(full=True))
    row = rows_of(alignment.alignment(run, perturbed(run, 4, 0.0)), "alignment")[0]
    assert row[3] > 0 and row[4] == 0 and row[5:10] == (1, 1, 1, 0, approx(0, abs=1e-12))
    row = rows_of(alignment.alignment(run, perturbed(run, 4, 0.5)), "alignment")[0]
    assert row[5] < 0.9 and row[9] > 0.1 and row[10] is not None and row[11] is not None
