"""The comparison of attention behind scripts/conformance: it must see every kind of disagreement."""

from __future__ import annotations

import copy
import json
import pathlib

import numpy
import pytest
import torch
from conformance_checks import attention_exceptions
from conformance_checks.attention_capture import read_matrices
from conformance_checks.attention_compare import AttentionComparison, Runs, compare_attention, compare_trees
from conformance_checks.attention_exceptions import Exceptions, exceptions_of
from conformance_checks.attention_oracle import OracleAttention, attention_of_method, reference_call
from conformance_checks.attention_pairs import expected_pairs
from conformance_checks.attention_reference import (
    measure,
    row_table,
    summarise,
    summarise_experts,
    summarise_samples,
)
from conformance_checks.zoo import Method, Model, OracleCall
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

KEY = "model.layers.1.self_attn"
MASK = [[1, 1, 1, 1], [1, 1, 1, 0]]
HOOK = {
    **{"id": 0, "name": KEY, "kind": "attention", "method": "forward", "component": "language_model", "layer": "1"},
    **{"implementation": "sdpa", "num_heads": 2, "num_key_heads": 1},
}
ROUTER = "model.layers.1.mlp.gate"
ROUTER_HOOK = {**HOOK, "id": 1, "name": ROUTER, "kind": "router"}
TOLERANCE = 1e-5


class FakedRuns:
    """A model of one layer with two heads and two sequences, and the runs that a right program would leave."""

    def __init__(self, folder: pathlib.Path):
        generator = numpy.random.default_rng(0)
        heads = generator.dirichlet(numpy.ones(4), size=(2, 2, 4))
        heads[:, :, :, 3] *= numpy.array(MASK)[:, None, None, 3]
        heads /= heads.sum(axis=3, keepdims=True)
        arrays = {f"attn/{KEY}/probs": heads, f"attn/{KEY}/probs_mean": heads.mean(axis=1)}
        facts = {"source": "hf-trace", "attention_layers": [{"key": KEY}]}
        save_tensors(
            {"input_ids": torch.zeros(2, 4, dtype=torch.long), "attention_mask": torch.tensor(MASK)},
            str(folder / "inputs.safetensors"),
        )
        attention = attention_of_method(facts, arrays, "forward")
        self.method = Method("forward", folder / "inputs.safetensors", [], None, attention=attention)
        self.model = Model("m", folder / "m.pt", facts, [self.method])
        self.hooks = [dict(HOOK), dict(ROUTER_HOOK)]
        self.routed = [(OracleCall(ROUTER, ROUTER, None, numpy.arange(8)[:, None] % 3, numpy.ones((8, 1))), ROUTER)]

        self.rows = measure(reference_call(attention[0], self.method.inputs(), "language_model"))
        lines = self.rows.sample * 4 + self.rows.place
        oracle = self.routed[0][0]
        experts = summarise_experts(self.rows, oracle.ids[lines], oracle.weights[lines], 3)
        entry = {"name": KEY, "implementation": "sdpa", "num_heads": 2, "num_key_heads": 1, **summarise(self.rows)}
        self.summary = {"language_model": {"1": {**entry, "experts": {"router": ROUTER, **experts}}}}
        mean = attention[0].mean.astype(numpy.float32)
        self.matrices = {"1/0/0": mean[0], "1/1/0": mean[1, :3, :3]}
        self.columns, self.table = row_table(self.rows)
        self.log = [{"language_model": {"1": values}} for values in summarise_samples(self.rows)]
        self.runs = Runs(folder / "full", folder / "stats")
        self.stats_summary: dict | None = None  # None: that of full

    def compare(self, exceptions: Exceptions | None = None) -> AttentionComparison:
        self._write(self.runs.full, self.summary)
        self._write(self.runs.stats, self.stats_summary or self.summary)
        dump = {
            "sample": self.rows.sample.astype(numpy.int32),
            "position": self.rows.place.astype(numpy.int32),
            "1.attention_stats": self.table.astype(numpy.float32),
        }
        folder = self.runs.stats / "moetap" / "dump" / "rank0"
        columns = {"attention_columns": json.dumps(self.columns)}
        save_file(dump, str(folder / "language_model-000000.safetensors"), metadata=columns)
        folder = self.runs.full / "moetap" / "dump" / "rank0"
        contiguous = {name: numpy.ascontiguousarray(matrix) for name, matrix in self.matrices.items()}
        save_file(contiguous, str(folder / "language_model.attention-000000.safetensors"))
        result = AttentionComparison()
        known = exceptions or Exceptions([])
        compare_attention(
            result, self.model, self.method, self.hooks, self.runs, self.routed, known, tolerance=TOLERANCE
        )
        return result

    def _write(self, run: pathlib.Path, summary: dict) -> None:
        (run / "moetap" / "dump" / "rank0").mkdir(parents=True)
        (run / "moetap" / "summary.json").write_text(json.dumps({"attention": summary}))
        logs = [
            {
                "logs_metrics_moe": {
                    component: {layer: {"attention": values} for layer, values in layers.items()}
                    for component, layers in entry.items()
                }
            }
            for entry in self.log
        ]
        (run / "log_metrics.json").write_text(json.dumps({"logs": logs}))

    @property
    def entry(self) -> dict:
        return self.summary["language_model"]["1"]


@pytest.fixture
def faked(tmp_path) -> FakedRuns:
    return FakedRuns(tmp_path)


def test_what_is_right_agrees(faked):
    result = faked.compare()
    assert result.problems == []
    assert (result.found, result.expected, result.experts) == (1, 1, 1)
    assert result.worst_probability < 1e-6 and result.worst_value < 1e-6


def test_queries_in_several_tensors_are_put_together(faked):
    matrix = faked.matrices.pop("1/0/0")
    faked.matrices |= {"1/0/0": matrix[:3], "1/0/3": matrix[3:]}
    assert faked.compare().problems == []


@pytest.mark.parametrize(
    "name",
    [
        *("entropy", "max_weight", "key_mass", "distance", "self", "diagonal", "diagonal_expected", "far"),
        *("far_expected", "first", "last", "received", "rows", "empty_rows"),
    ],
)
def test_a_wrong_value_of_the_summary_is_seen(faked, name):
    faked.entry[name] += 1 if isinstance(faked.entry[name], int) else 2e-5 * max(1, faked.entry[name])
    (problem,) = faked.compare().problems
    assert f"summary {name}" in problem


@pytest.mark.parametrize("name", ["region_mass", "flow", "head_entropy", "head_distance", "head_first"])
def test_a_wrong_element_of_the_summary_is_seen(faked, name):
    values = faked.entry[name]
    while isinstance(values[0], list):
        values = values[0]
    values[-1] += 1e-4
    assert f"summary {name}" in faked.compare().problems[0]


@pytest.mark.parametrize(
    "name", ["gate_mass", "mean_distance", "entropy", "received", "flow", "flow_weight", "specialization", "pattern"]
)
def test_a_wrong_sum_of_an_expert_is_seen(faked, name):
    values = faked.entry["experts"][name]
    while isinstance(values[0], list):
        values = values[0]
    values[0] = (values[0] or 0.0) + 1e-4
    assert f"experts of {ROUTER} {name}" in faked.compare().problems[0]


def test_missing_values_are_named(faked):
    del faked.entry["far"], faked.entry["experts"]["pattern"]
    problems = " ".join(faked.compare().problems)
    assert "summary lacks far" in problems and "lack pattern" in problems


def test_undefined_is_not_a_number(faked):
    assert faked.entry["specialization"]["n_terminal"] is not None
    faked.entry["specialization"]["n_terminal"] = None
    assert "n_terminal: None" in faked.compare().problems[0]


def test_a_wrong_probability_is_placed(faked):
    faked.matrices["1/1/0"] = faked.matrices["1/1/0"] + numpy.eye(3, dtype=numpy.float32)[[1, 0, 2]] * 2e-5
    (problem,) = faked.compare().problems
    assert "probabilities differ by 2e-05" in problem and "sample 1" in problem


def test_probabilities_that_are_no_numbers_differ(faked):
    faked.matrices["1/0/0"] = faked.matrices["1/0/0"] * numpy.float32("nan")
    assert "differ by inf" in faked.compare().problems[0]


def test_padding_that_is_kept_is_seen(faked):
    faked.matrices["1/1/0"] = faked.method.attention[0].mean[1].astype(numpy.float32)
    assert "sample 1 is (4, 4), oracle (3, 3)" in faked.compare().problems[0]


@pytest.mark.parametrize("rename, said", [({"1/1/0": "1/2/0"}, "samples [0, 2]"), ({"1/1/0": "1/1/1"}, "no query 0")])
def test_wrong_samples_and_queries_are_seen(faked, rename, said):
    faked.matrices = {rename.get(name, name): matrix for name, matrix in faked.matrices.items()}
    assert said in faked.compare().problems[0]


def test_stats_must_be_full(faked):
    faked.stats_summary = copy.deepcopy(faked.summary)
    faked.stats_summary["language_model"]["1"]["num_key_heads"] = 2
    assert "stats and full language_model.1.num_key_heads: 2, expected 1" in faked.compare().problems[0]


def test_rows_of_the_dump_are_compared_one_by_one(faked):
    column = faked.columns.index("region.2")
    faked.table[2, column] += 1e-4
    (problem,) = faked.compare().problems
    assert "column region.2 [2]" in problem


def test_rows_of_padding_in_the_dump_are_seen(faked):
    faked.rows.place[-1] = 3  # of the shorter sequence
    assert "rows are not the oracle's" in " ".join(faked.compare().problems)


def test_values_of_the_log_are_compared(faked):
    faked.log[1]["language_model"]["1"]["distance"] += 1e-3
    (problem,) = faked.compare().problems
    assert "log entry 1 distance" in problem


def test_a_layer_that_is_not_found_is_named_unless_listed(faked):
    faked.hooks, faked.matrices, faked.summary = [], {}, {}
    assert faked.compare().problems == [f"attention not found: {KEY}"]


def test_a_hook_that_the_oracle_does_not_know_is_named_unless_listed(faked, tmp_path):
    look_alike = {**HOOK, "name": "model.memory", "layer": "2"}
    faked.hooks.append(look_alike)
    faked.matrices["2/0/0"] = faked.matrices["1/0/0"]
    assert faked.compare().problems == ["no attention: model.memory"]
    table = tmp_path / "table.txt"
    table.write_text("m  model.memory*  no-oracle  it stands for a tower\nn  *  no-oracle  another model\n")
    faked.runs = Runs(tmp_path / "full2", tmp_path / "stats2")
    exceptions = exceptions_of("m", table)
    result = faked.compare(exceptions)
    assert (result.problems, result.listed, exceptions.unused()) == ([], 1, [])


def test_a_hook_without_rows_is_seen_where_nothing_branches(faked):
    faked.hooks.append({**HOOK, "name": "model.layers.2.self_attn", "layer": "2"})
    assert "no attention of model.layers.2.self_attn" in faked.compare().problems[0]
    faked.model.facts["source"] = "hand-script"
    faked.runs = Runs(faked.runs.full / "again", faked.runs.stats / "again")
    assert faked.compare().problems == []


def test_a_table_with_a_wrong_line_is_refused_and_the_own_one_is_read(tmp_path):
    table = tmp_path / "table.txt"
    table.write_text("m  *  seldom  because\n")
    with pytest.raises(ValueError, match="no-oracle"):
        exceptions_of("m", table)
    exceptions_of("m")
    table.write_text("m  some.place  not-found  because\n")
    assert exceptions_of("m", table).unused() == ["not-found some.place"]
    assert attention_exceptions.TABLE.is_file()


def test_trees_of_other_shapes_differ():
    def problems(actual, expected) -> list[str]:
        found: list[str] = []
        compare_trees(found, "x", actual, expected, 1e-5)
        return found

    assert problems({"a": [1.0, None]}, {"a": [1.000001, None]}) == []
    assert problems([1000.0], [1000.005]) == []
    for actual, expected in [([1.0], [1.0, 2.0]), ({"a": 1}, {"b": 1}), (None, 0.0), (float("nan"), 1.0), (1.1, 1.0)]:
        assert len(problems(actual, expected)) == 1, (actual, expected)


def test_sinks_leave_what_needs_the_heads_out(faked):
    oracle = faked.method.attention[0]
    oracle.heads, oracle.mean = None, oracle.mean * 0.5
    faked.matrices = {name: matrix * 0.5 for name, matrix in faked.matrices.items()}
    faked.entry["key_mass"] *= 0.5
    assert faked.compare().problems == []
    faked.runs = Runs(faked.runs.full / "again", faked.runs.stats / "again")
    faked.entry["key_mass"] += 1e-3
    assert "key_mass" in faked.compare().problems[0]


def test_a_name_that_is_there_again_is_the_next_call(tmp_path):
    folder = tmp_path / "moetap/dump/rank0"
    folder.mkdir(parents=True)

    def shard(number: int, tensors: dict[str, float]) -> None:
        matrices = {name: numpy.full((1, 1), value, numpy.float32) for name, value in tensors.items()}
        save_file(matrices, str(folder / f"language_model.attention-{number:06}.safetensors"))

    shard(0, {"1/-1.0/0": 1, "1/-1.1/0": 2})
    shard(1, {"1/-1.0/0": 3, "1/-1.1/0": 4})
    calls = read_matrices(tmp_path, [dict(HOOK)])
    assert [{sample: float(parts[0][1][0, 0]) for sample, parts in call.samples.items()} for call in calls] == [
        {0: 1, 1: 2},
        {0: 3, 1: 4},
    ]
    with pytest.raises(ValueError, match="of no hook: language_model/1"):
        read_matrices(tmp_path, [])


def positions_of(component: str, queries: int, keys: int, masks: dict[str, list]) -> tuple[list, list, bool]:
    mean = numpy.full((1, queries, keys), 1 / keys)
    inputs = {name: torch.tensor(mask) for name, mask in masks.items()}
    call = reference_call(OracleAttention("a", "a", mean, None), inputs, component)
    return call.query_position.tolist()[0], call.key_position.tolist()[0], call.self_attention


def test_masks_say_which_queries_and_keys_are_tokens():
    mask = {"attention_mask": [[0, 1, 1]]}
    assert positions_of("language_model", 3, 3, mask) == ([-1, 0, 1], [-1, 0, 1], True)
    assert positions_of("vision_tower", 3, 3, mask) == ([0, 1, 2], [0, 1, 2], True)
    assert positions_of("decoder", 2, 3, mask) == ([0, 1], [-1, 0, 1], False)
    assert positions_of("decoder", 2, 2, mask | {"decoder_attention_mask": [[1, 0]]}) == ([0, -1], [0, -1], True)
    # Two keys that are no tokens follow those of the tokens.
    assert positions_of("language_model", 3, 5, mask) == ([-1, 0, 1], [-1, 0, 1, -1, -1], True)


def test_a_router_must_go_with_the_attention_before_it(faked):
    sums = faked.entry.pop("experts")
    assert faked.compare().problems == [f"{ROUTER} goes with None, expected {KEY}"]
    faked.runs = Runs(faked.runs.full / "again", faked.runs.stats / "again")
    faked.entry["experts"] = [sums, {**sums, "router": "another"}]
    assert faked.compare().problems == []


def test_the_rule_of_pairs():
    def hooks(*entries: tuple[str, str, str, str]) -> list[dict]:
        keys = ("name", "kind", "component", "layer")
        return [{"id": number, **dict(zip(keys, entry, strict=True))} for number, entry in enumerate(entries)]

    found = hooks(
        ("router before", "router", "text", "0"),
        ("attention 0", "attention", "text", "0"),
        ("router 0", "router", "text", "0"),
        ("attention of the tower", "attention", "tower", "0"),
        ("attention 1", "attention", "text", "1"),
        ("router 1", "router", "text", "1"),
        ("router behind", "router", "text", "7"),
        ("router of pooled tokens", "router", "text", "8"),
        ("router 0 again", "router", "text", "0"),
        ("router that is not known", "router", "text", "1"),
    )
    tokens = {hook["name"]: [6] for hook in found if hook["name"] != "router that is not known"}
    tokens["router of pooled tokens"] = [2]
    assert expected_pairs(found, tokens) == {
        "router 0": "attention 0",
        "router 1": "attention 1",
        "router behind": "attention 1",
        "router 0 again": "attention 0",
    }
