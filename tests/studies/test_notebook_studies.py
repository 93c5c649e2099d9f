"""The notebook's studies over arrays: every table of the program against the oracle, in both definitions."""

import pytest
from arrays import Shape, as_oracle, random_arrays, save_arrays
from comparison import assert_tables
from oracle import attention, layers

ROUTING = [
    *(layers.layer_statistics, layers.expert_usage, layers.layer_changes, layers.top_experts, layers.expert_stability),
    *(layers.expert_transitions, layers.expert_evolution_stats, layers.expert_cooperation),
]
ATTENTION = [attention.expert_attention_patterns, attention.information_flow, attention.region_specialization]

CASES = {
    "plain": (Shape(), {}),
    "half_precision": (Shape(lengths=(13, 13, 2, 7, 1)), {"dtype": "float16", "id_dtype": "int16"}),
    "double_fortran": (
        Shape(samples=4, experts=7, top_k=3),
        {"dtype": "float64", "id_dtype": "int32", "fortran": True},
    ),
    "duplicates_and_lost_slots": (Shape(experts=6, top_k=3, duplicates=0.3, out_of_range=0.2), {}),
    "one_expert": (Shape(experts=1, top_k=1), {}),
    "all_experts": (Shape(experts=3, top_k=3), {}),
    "one_layer": (Shape(layers=1), {}),
    "one_sample": (Shape(samples=1, lengths=(9,)), {}),
    "empty_samples": (Shape(lengths=(0, 5, 0, 13, 1)), {}),
    "no_attention": (Shape(attention=False), {}),
    "gates_of_zero": (Shape(sigmoid=True, experts=6, top_k=3), {}),
    "unscaled_attention": (Shape(unscaled_attention=True), {}),
    "long": (Shape(layers=2, samples=3, width=124, experts=12, top_k=3, lengths=(124, 101, 37)), {}),
}


def expected_tables(arrays, notebook: bool) -> dict[str, dict[str, list]]:
    tables = {}
    for study in ROUTING + (ATTENTION if arrays.attention is not None else []):
        tables |= study(arrays, notebook=notebook)
    return tables


@pytest.mark.parametrize("definitions", ["recommended", "notebook"])
@pytest.mark.parametrize("case", CASES)
def test_tables(case, definitions, tables_of, tmp_path):
    shape, form = CASES[case]
    form = dict(form)
    fortran = form.pop("fortran", False)
    arrays = random_arrays(list(CASES).index(case), shape, **form)
    folder = save_arrays(tmp_path / "arrays", arrays, fortran)
    got = tables_of(folder, "--definitions", definitions)
    assert_tables(got, expected_tables(as_oracle(arrays), definitions == "notebook"))


def test_gates_of_the_slots_alone(tables_of, tmp_path):
    arrays = random_arrays(50, Shape(experts=6, top_k=3, duplicates=0.2, out_of_range=0.1))
    got = tables_of(save_arrays(tmp_path / "arrays", arrays), "--gate", "topk")
    assert_tables(got, expected_tables(as_oracle(arrays, topk_gates=True), notebook=False))
