"""Runs of small models: what is said of a run is what is said of its arrays, and what NumPy makes of its dump."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import assert_tables, read_tables
from oracle import expert_cache, placement, predictability
from oracle.routing_run import Layer, RoutingRun
from safetensors.numpy import load_file


@pytest.fixture(scope="module")
def attended(moetap, tmp_path_factory) -> dict[str, Path]:
    """The same two forwards recorded with attention in full and with statistics of its rows."""
    from attention_model import Decoder, EagerAttention, no_past
    from moe_model import VOCABULARY

    folder = tmp_path_factory.mktemp("attended")
    torch.manual_seed(0)
    torch.jit.script(Decoder(EagerAttention).eval()).save(folder / "model.pt")
    (folder / "in").mkdir()
    for index, length in enumerate((19, 11)):
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, length - 3 :] = 0
        ids = (7 * torch.arange(2 * length) + index).reshape(2, length) % VOCABULARY
        torch.save({"input_ids": ids, "attention_mask": mask, "past": no_past(2)}, folder / "in" / f"{index}.pt")
    for attention in ("full", "stats"):
        options = ["--attention", attention, "--dump", "full", "-o", folder / attention]
        done = moetap("run", folder / "model.pt", "--inputs", folder / "in", *options)
        assert done.returncode == 0, done.stderr
    return {attention: folder / attention for attention in ("full", "stats")}


def read_run(run: Path, experts: int) -> RoutingRun:
    shards = [load_file(path) for path in sorted((run / "moetap/dump/rank0").glob("language_model-0*.safetensors"))]
    columns = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    names = sorted({name.split(".")[0] for name in columns if name.endswith(".selected")}, key=int)
    layers = {name: Layer(experts, columns[f"{name}.selected"], columns[f"{name}.weights"]) for name in names}
    return RoutingRun(*(columns[x] for x in ("sample", "position", "token_id", "phase", "forward")), layers)


def exported(moetap, run: Path, folder: Path) -> Path:
    done = moetap("export", run, "--to", "npy", "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_close(got: dict, expected: dict, names: list[str], relative: float, absolute: float) -> None:
    for name in names:
        assert list(got[name]) == list(expected[name])
        for column, cells in expected[name].items():
            assert len(got[name][column]) == len(cells)
            for a, b in zip(got[name][column], cells, strict=True):
                assert (a == "") == (b == "")
                if a != b:
                    assert float(a) == pytest.approx(float(b), rel=relative, abs=absolute), (name, column)


ROUTING = ["expert_cooperation", "expert_transitions", "layer_changes", "layer_statistics", "top_experts"]
ATTENTION = ["expert_attention_summary", "information_flow", "region_specialization"]


def test_arrays_of_a_run_say_the_same(moetap, recorded, tables_of, tmp_path):
    got, expected = tables_of(exported(moetap, recorded, tmp_path / "npy")), tables_of(recorded)
    assert_close(got, expected, [*ROUTING, "expert_evolution_stats"], 1e-9, 1e-12)


def test_attention_of_a_run_says_the_same(moetap, attended, tables_of, tmp_path):
    arrays = tables_of(exported(moetap, attended["full"], tmp_path / "npy"))
    assert_close(tables_of(attended["full"]), arrays, ROUTING + ATTENTION, 1e-9, 1e-12)


def test_statistics_of_rows_say_what_the_matrices_say(attended, tables_of):
    """These routers divide gates by their sum over the slots: statistics of the planes hold only such gates."""
    full, stats = (tables_of(attended[attention], "--gate", "topk") for attention in ("full", "stats"))
    assert_close(stats, full, ROUTING + ATTENTION, 1e-5, 1e-5)


def test_statistics_of_other_gates_are_not_taken_for_those_asked_for(attended, tables_of):
    full, stats = tables_of(attended["full"]), tables_of(attended["stats"])
    assert_close(stats, full, ["expert_attention_summary", "information_flow"], 1e-5, 1e-5)
    for column, cells in stats["region_specialization"].items():  # cells may be left empty
        for a, b in zip(cells, full["region_specialization"][column], strict=True):
            assert a == "" or float(a) == pytest.approx(float(b), rel=1e-5)


def test_dump_of_a_real_run(recorded, tables_of):
    run = read_run(recorded, experts=4)
    assert run.num_tokens == 15 * 3 + 3 + 7 + 12 * 3 + 3
    expected = {}
    for study in (expert_cache.expert_cache, placement.placement, placement.imbalance, predictability.predictability):
        expected |= study(run)
    assert_tables(tables_of(recorded), expected)


def is_cell(cell: str, value) -> bool:
    if value is None or isinstance(value, str):
        return cell == (value or "")
    return cell != "" and float(cell) == value


def test_tables_are_those_of_the_result_file(analyze, recorded):
    """`analysis.json` holds the same tables."""
    folder = analyze(recorded)
    document = json.loads((folder / "analysis.json").read_text())
    studies = {name: study for component in document["components"].values() for name, study in component.items()}
    in_json = {name: table for study in studies.values() for name, table in study["tables"].items()}
    assert set(in_json) == set(read_tables(folder))
    assert all(study["sentence"] for study in studies.values())
    for name, table in read_tables(folder).items():
        assert list(in_json[name]) == list(table)
        for column, cells in table.items():
            values = in_json[name][column]
            assert len(values) == len(cells)
            for value, cell in zip(values, cells, strict=True):
                assert is_cell(cell, value), (name, column)
