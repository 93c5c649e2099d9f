"""The flows of one sample, and those of experts over layers, against the oracle: labels are read as nodes."""

import math

import pytest
from arrays import Shape, as_oracle, random_arrays, save_arrays
from comparison import assert_tables, read_tables
from oracle import sankeys

LONG = Shape(layers=2, samples=3, width=124, experts=12, top_k=3, lengths=(124, 101, 37))
LONGEST = Shape(layers=1, samples=2, width=150, experts=6, top_k=2, lengths=(150, 150), duplicates=0.1)
SHORT = Shape(layers=2, samples=3, width=13, lengths=(13, 3, 9))


def node(label: str, kind: str, starts: list[int]) -> tuple[str, int]:
    """`Token_5` or `Pos 5` (position 4), `Expert 3`, `Region 2 (4-6)`, `Pos 4-6` (the group that starts there)."""
    if label == "Attention":
        return ("attention", 0)
    number = label.replace("_", " ").split(" ")[1]
    if kind == "group":
        return ("group", starts.index(int(number.split("-")[0]) - 1))
    return (kind, int(number) - {"expert": 0, "position": 1, "region": 1}[kind])


def assert_flows(got: dict[str, list[str]], expected: dict[str, list], starts: list[int], token_base: int = 1) -> None:
    assert list(got) == ["stage", "source", "target", "value"]
    links: dict[tuple, float] = {}
    for stage, source, target, value in zip(*expected.values(), strict=True):
        links[stage, source, target] = links.get((stage, source, target), 0.0) + value
    kinds = {stage: (source[0], target[0]) for stage, source, target in links}
    read: dict[tuple, float] = {}
    for stage, source, target, value in zip(*got.values(), strict=True):
        ends = [node(x, kind, starts) for x, kind in zip((source, target), kinds[int(stage)], strict=True)]
        if ends[0][0] == "position":
            ends[0] = ("position", ends[0][1] + 1 - token_base)
        key = (int(stage), *ends)
        read[key] = read.get(key, 0.0) + float(value)
    assert set(read) == set(links)
    for key, value in links.items():
        assert math.isclose(read[key], value, rel_tol=1e-9, abs_tol=1e-12), key


def group_starts(n: int, notebook: bool) -> list[int]:
    return [q * (n // 8) for q in range(8)] if notebook else [q * n // 8 for q in range(8)]


@pytest.mark.parametrize("definitions", ["recommended", "notebook"])
@pytest.mark.parametrize(("shape", "sample", "layer"), [(LONG, 0, 1), (LONG, 1, 0), (LONGEST, 1, 0), (SHORT, 2, 1)])
def test_one_sample(shape, sample, layer, definitions, analyze, tmp_path):
    notebook = definitions == "notebook"
    arrays = random_arrays(61, shape)
    folder = save_arrays(tmp_path / "arrays", arrays)
    options = ["--sample", sample, "--layer", layer, "--definitions", definitions]
    names = "sankey_token_expert,sankey_expert_region,sankey_group_expert_region"
    got = read_tables(analyze(folder, *options, "--only", names))
    data = as_oracle(arrays)
    n = data.length(sample)
    whole = n == data.width  # where the notebook's fixed length reads no padding
    if whole or not notebook:
        flows = sankeys.sankey_token_expert(data, sample, layer, notebook)["sankey_token_expert"]
        assert_flows(got["sankey_token_expert"], flows, [], token_base=0 if notebook else 1)
        flows = sankeys.sankey_group_expert_region(data, sample, layer, notebook)["sankey_group_expert_region"]
        length = min(140, n) if notebook else n
        assert_flows(got["sankey_group_expert_region"], flows, group_starts(length, notebook))
    flows = sankeys.sankey_expert_region(data, sample, layer, notebook)["sankey_expert_region"]
    assert_flows(got["sankey_expert_region"], flows, [])
    assert_tables(got, sankeys.expert_usage_bar(data, sample, layer, notebook))


@pytest.mark.parametrize("definitions", ["recommended", "notebook"])
@pytest.mark.parametrize("tail", [False, True])
def test_over_layers(definitions, tail, tables_of, tmp_path):
    """With a tail of one residue, which the notebook takes for padding."""
    arrays = random_arrays(62, Shape(layers=3, experts=9, top_k=3, width=17, lengths=(17, 17, 11, 4, 16)))
    if tail:
        arrays["tokens"][1, -10:] = 8
    notebook = definitions == "notebook"
    got = tables_of(save_arrays(tmp_path / "a", arrays), "--only", "sankey_evolution", "--definitions", definitions)
    flows = sankeys.sankey_evolution(as_oracle(arrays), notebook)["sankey_evolution"]
    table = got["sankey_evolution"]
    assert list(table) == ["from_layer", "to_layer", "from_expert", "to_expert", "value", "probability"]
    expected = {(s[1], t[1], s[2], t[2]): v for s, t, v in zip(*list(flows.values())[1:], strict=True)}
    read = {}
    for line in zip(*table.values(), strict=True):
        layer, next_layer, x, y = map(int, line[:4])
        read[layer - 1, next_layer - 1, x, y] = float(line[4])
    assert read == pytest.approx(expected, rel=1e-9)
