"""Studies over runs: every table of the program against the oracle."""

import pytest
from comparison import assert_tables, rows_of, same
from oracle import alignment, enrichment, expert_cache, groups, matching, placement, predictability, usage
from oracle.alignment import joined
from routing_runs import RunShape, perturbed, random_run, save_run

LARGE = RunShape(layers=(("0", 8, 2),), batches=((40, 20), (40, 20), (1, 3)), generated=2)
SHAPES = [RunShape(), RunShape(full=True), LARGE, RunShape(unknown=True), RunShape(steps_at_zero=True)]


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_tables_of_one_run(seed, tables_of, tmp_path):
    run = random_run(seed, SHAPES[seed])
    got = tables_of(save_run(tmp_path / "run", run, shards=1 + seed))
    expected = {}
    for study in (expert_cache.expert_cache, placement.placement, placement.imbalance, predictability.predictability):
        expected |= study(run)
    assert_tables(got, expected | enrichment.token_expert_enrichment(run))


@pytest.mark.parametrize("options", [("prompt", False), ("all", False), ("all", True), ("generation", True)])
def test_what_the_cache_counts(options, tables_of, tmp_path):
    counted, warm = options
    run = random_run(7, RunShape())
    arguments = ["--only", "expert_cache", *(["--warm"] if warm else [])]
    if counted != "generation":
        arguments += ["--phase", counted]
    got = tables_of(save_run(tmp_path / "run", run), *arguments)
    assert_tables(got, expert_cache.expert_cache(run, counted, warm))


@pytest.mark.parametrize("seed", range(2))
def test_two_runs(seed, tables_of, tmp_path):
    shape = RunShape(layers=(("0", 6, 2), ("2", 5, 2)), full=seed == 1)
    a = random_run(seed, shape)
    b = perturbed(a, seed + 10, share=0.3)
    folders = save_run(tmp_path / "a", a), save_run(tmp_path / "b", b)
    got = tables_of(*folders)
    assert_tables(got, alignment.alignment(a, b) | alignment.alignment_samples(a, b))
    assert_matching(got["matching"], matching.matching(a, b)["matching"])
    equal = alignment.equal_places(a, b)
    for name, column, expected in (
        ("saturation", "position_match", list(equal.values())),
        ("switch_fraction", "switch_fraction", [1 - x for x in equal.values()]),
    ):
        assert got[name]["layer"] == list(equal)
        assert [float(x) for x in got[name][column]] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_usage_of_two_runs(tables_of, tmp_path):
    """One comparison a table: with all studies, and alone."""
    a, b = (random_run(seed, RunShape(layers=(("0", 6, 2), ("2", 5, 2)))) for seed in (5, 6))
    folders = save_run(tmp_path / "a", a), save_run(tmp_path / "b", b)
    expected = usage.usage_comparison(a, b)
    assert_tables(tables_of(*folders, "--only", "usage_comparison"), expected)
    assert_tables(tables_of(*folders), expected)


@pytest.mark.parametrize("which", ["all", "prompt", "generation", "3:-5", "-4:", "60:20"])
def test_usage(which, tables_of, tmp_path):
    """Of all tokens, of a phase, of a slice of the rows as Python takes it."""
    run = random_run(5, RunShape())
    options, tokens = [], None
    if ":" in which:
        options, tokens = [f"--token-range={which}"], usage.in_range(run, which)
    elif which != "all":
        options, tokens = ["--phase", which], usage.in_phase(run, which)
    got = tables_of(save_run(tmp_path / "run", run), "--only", "usage", *options)
    assert_tables(got, usage.usage(run, tokens))


def assert_matching(got: dict[str, list[str]], expected: dict[str, list]) -> None:
    """Where several assignments are best, any of them is right: sums are compared, and that it is one."""
    assert list(got) == list(expected)
    similarities = {"got": {}, "expected": {}}
    for which, table in (("got", got), ("expected", expected)):
        for layer, value in zip(table["layer"], table["similarity"], strict=True):
            sums = similarities[which]
            sums[layer] = sums.get(layer, 0) + float(value or 0)
    assert similarities["got"] == pytest.approx(similarities["expected"], rel=1e-9)
    assert all(map(same, got["identity_similarity"], expected["identity_similarity"]))
    pairs = list(zip(got["layer"], got["expert_b"], strict=True))
    assert len(set(pairs)) == len(pairs) and sorted(map(str, expected["expert_b"])) == sorted(got["expert_b"])


@pytest.mark.parametrize("key", ["category", "phase"])
def test_groups(key, tables_of, tmp_path):
    run = random_run(11, RunShape(layers=(("0", 5, 2), ("1", 5, 2)), batches=((6, 9), (8, 9))))
    folder = save_run(tmp_path / "run", run)
    got = tables_of(folder, "--group-by", key, "--samples", folder / "samples.jsonl", "--only", "groups")
    bounds = {column: got["group_usage"].pop(column) for column in ("usage_low", "usage_high")}
    p_values = [float(x) for x in got["group_difference"].pop("p_value")]
    assert_tables(got, groups.group_usage(run, key) | groups.group_difference(run, key))
    for low, used, high in zip(bounds["usage_low"], got["group_usage"]["usage"], bounds["usage_high"], strict=True):
        assert 0 <= float(low) <= float(used) + 1e-9 and float(used) - 1e-9 <= float(high) <= 1
    for p in p_values:
        hits = p * 1001 - 1
        assert 0 <= round(hits) <= 1000 and hits == pytest.approx(round(hits), abs=1e-6)


def test_groups_that_differ_are_told_from_groups_that_do_not(tables_of, tmp_path):
    """Samples of one group choose other experts: p is as small as it can be. With labels at random it is not small."""
    shape = RunShape(layers=(("0", 6, 2),), batches=((10, 8), (10, 8)), generated=0, zero_weights=0, skew=0)
    run = random_run(13, shape)
    layer = run.layers["0"]
    for token in range(run.num_tokens):
        if run.sample[token] % 2:
            layer.selected[token] = [0, 1]
    run.docs = [{"planted": str(s % 2), "random": str(s * 7 % 5 % 2)} for s in range(20)]
    folder = save_run(tmp_path / "run", run)
    options = ["--samples", folder / "samples.jsonl", "--only", "groups"]
    planted = tables_of(folder, "--group-by", "planted", *options)["group_difference"]
    assert float(planted["p_value"][0]) == pytest.approx(1 / 1001)
    assert float(tables_of(folder, "--group-by", "random", *options)["group_difference"]["p_value"][0]) > 0.01


def test_letters_of_proteins(tables_of, tmp_path):
    run = random_run(17, RunShape(layers=(("0", 4, 1),), batches=((8, 30),), vocabulary=6))
    got = tables_of(save_run(tmp_path / "run", run), "--only", "token_expert_enrichment", "--alphabet", "ACDEFG")
    expected = enrichment.token_expert_enrichment(run, "ACDEFG")
    assert rows_of(expected, "token_expert_enrichment")
    assert_tables(got, expected)


def test_the_fifty_smallest_of_an_expert_are_written(tables_of, tmp_path):
    """Many token ids, each with many tokens: more candidates than are written."""
    shape = RunShape(layers=(("0", 3, 2),), batches=((60, 60),), generated=0, vocabulary=90)
    run = random_run(19, shape)
    got = tables_of(save_run(tmp_path / "run", run), "--only", "token_expert_enrichment")
    expected = enrichment.token_expert_enrichment(run)
    assert expected["token_expert_enrichment"]["expert_id"].count(0) == enrichment.WRITTEN
    assert_tables(got, expected)


def test_the_data_hold_what_the_studies_look_for():
    """Otherwise the comparisons above would compare nothing."""
    run = random_run(0, SHAPES[0])
    assert (run.layers["1"].weights == 0).any() and (run.phase == 1).any()
    ties = run.layers["1"].weights
    assert (ties[:, 0] == ties[:, 1]).any()
    assert rows_of(enrichment.token_expert_enrichment(run), "token_expert_enrichment")
    row = rows_of(placement.placement(random_run(2, LARGE)), "placement")[0]
    assert row[5] is not None and row[5] != row[7]
    a = random_run(1, RunShape(full=True))
    assert 0 < len(joined(a, perturbed(a, 3, 0.3))) < a.num_tokens
