"""--dump-router-input: what enters each router's projection, as a column of the dump."""

from pathlib import Path

import pytest
import torch
from conftest import assert_succeeded
from moe_model import NUM_EXPERTS, VOCABULARY, WIDTH, MoeBlock, MoeModel, moe_inputs
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn


def dump_of(run: Path) -> dict[str, torch.Tensor]:
    shards = [load_file(path) for path in sorted((run / "moetap/dump/rank0").glob("language_model-*.safetensors"))]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def save_inputs(folder: Path, inputs: list[dict[str, torch.Tensor]]) -> Path:
    folder.mkdir()
    for index, of_forward in enumerate(inputs):
        save_file(of_forward, folder / f"{index}.safetensors")
    return folder


def hidden_states(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What enters the gate of each layer, of the tokens that are no padding."""
    with torch.no_grad():
        x = model.embedding(inputs["input_ids"]) * inputs["attention_mask"].unsqueeze(-1)
        states = []
        for layer in model.layers:
            states.append(x[inputs["attention_mask"].bool()])
            x = x + layer(x)
    return states


@pytest.fixture
def model() -> MoeModel:
    torch.manual_seed(0)
    return MoeModel().eval()


@pytest.fixture
def saved(model, tmp_path) -> Path:
    torch.jit.script(model).save(tmp_path / "moe.pt")
    return tmp_path / "moe.pt"


@pytest.fixture
def padded() -> list[dict[str, torch.Tensor]]:
    """Two prompts, one padded in front, then a token of each."""
    inputs = [moe_inputs(2, 5, seed=0), moe_inputs(2, 1, seed=1)]
    inputs[0]["attention_mask"][1, :2] = 0
    return inputs


@pytest.mark.parametrize("dump", ["ids", "topk", "full"])
def test_rows_are_the_hidden_states(moetap, model, saved, padded, tmp_path, dump):
    folder = save_inputs(tmp_path / "in", padded)
    done = moetap(
        *("run", saved, "--inputs", folder, "-o", tmp_path / "run", "--dump", dump, "--dump-router-input"),
        *("--unlabelled", "follow"),
    )
    assert_succeeded(done)
    columns = dump_of(tmp_path / "run")
    assert columns["phase"].tolist() == [0] * 8 + [1] * 2
    assert columns["sample"].tolist() == [0] * 5 + [1] * 3 + [0, 1]
    states = [hidden_states(model, inputs) for inputs in padded]
    for layer in range(2):
        expected = torch.cat([of_forward[layer] for of_forward in states])
        assert columns[f"{layer}.input"].dtype == torch.float32
        assert torch.allclose(columns[f"{layer}.input"], expected, atol=1e-6)
        if dump == "full":
            logits = model.layers[layer].gate(columns[f"{layer}.input"])
            assert torch.allclose(logits, columns[f"{layer}.logits"], atol=1e-5)


def test_it_is_left_out_unless_asked_for(moetap, saved, padded, tmp_path):
    folder = save_inputs(tmp_path / "in", padded)
    assert_succeeded(moetap("run", saved, "--inputs", folder, "-o", tmp_path / "run", "--dump", "full"))
    assert not [name for name in dump_of(tmp_path / "run") if name.endswith(".input")]


def test_it_has_the_type_of_the_model(moetap, model, padded, tmp_path):
    torch.jit.script(model.bfloat16()).save(tmp_path / "moe.pt")
    folder = save_inputs(tmp_path / "in", padded)
    done = moetap(
        *("run", tmp_path / "moe.pt", "--inputs", folder, "-o", tmp_path / "run"),
        *("--dump", "ids", "--dump-router-input"),
    )
    assert_succeeded(done)
    with safe_open(tmp_path / "run/moetap/dump/rank0/language_model-000000.safetensors", "pt") as shard:
        assert shard.get_slice("1.input").get_dtype() == "BF16"
    assert torch.equal(dump_of(tmp_path / "run")["0.input"], torch.cat([hidden_states(model, i)[0] for i in padded]))


def test_it_needs_a_dump(saved, padded, tmp_path, assert_fails):
    folder = save_inputs(tmp_path / "in", padded)
    run = ("run", saved, "--inputs", folder, "-o", tmp_path / "run", "--dump-router-input")
    assert_fails(2, *run, parts=["dump_router_input", "got none"])
    sums = (*run, "--dump", "ids", "--privacy", "sums", "--no-log-per-token")
    assert_fails(2, *sums, parts=["privacy is sums", "dump must be none"])
    assert not (tmp_path / "run").exists()


def test_an_instrumented_model_says_whether_it_reports_inputs(moetap, saved, padded, tmp_path, assert_fails):
    folder = save_inputs(tmp_path / "in", padded)
    run = ("--inputs", folder, "--dump", "full", "--dump-router-input", "-o")
    assert moetap("instrument", saved, "-o", tmp_path / "plain.pt").returncode == 0
    assert_fails(2, "run", tmp_path / "plain.pt", *run, tmp_path / "refused", parts=["instrument it", "--dump-router"])
    assert moetap("instrument", saved, "-o", tmp_path / "with.pt", "--dump-router-input").returncode == 0
    assert_succeeded(moetap("run", tmp_path / "with.pt", *run, tmp_path / "a"))
    assert_succeeded(moetap("run", saved, *run, tmp_path / "b"))
    a, b = dump_of(tmp_path / "a"), dump_of(tmp_path / "b")
    assert list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
    # It also serves runs that do not ask for them.
    assert_succeeded(moetap("run", tmp_path / "with.pt", "--inputs", folder, "-o", tmp_path / "c", "--dump", "ids"))
    assert "0.input" not in dump_of(tmp_path / "c")


def test_runs_with_inputs_are_merged_and_exported(moetap, saved, padded, tmp_path, assert_fails):
    runs = []
    for number, inputs in enumerate(padded):
        folder = save_inputs(tmp_path / f"in{number}", [inputs])
        runs.append(tmp_path / f"run{number}")
        options = ("--dump", "full", "--dump-router-input")
        assert_succeeded(moetap("run", saved, "--inputs", folder, "-o", runs[-1], *options))
    assert_succeeded(moetap("merge", *runs, "-o", tmp_path / "merged", "--relabel"))
    parts, merged = [dump_of(run) for run in runs], dump_of(tmp_path / "merged")
    for layer in range(2):
        name = f"{layer}.input"
        assert torch.equal(merged[name], torch.cat([part[name] for part in parts]))
    for format in ("npy", "parquet", "flame", "r3"):
        assert_succeeded(moetap("export", tmp_path / "merged", "--to", format, "-o", tmp_path / format))
    folder = tmp_path / "in1"
    assert_succeeded(moetap("run", saved, "--inputs", folder, "-o", tmp_path / "without", "--dump", "full"))
    merge = ("merge", runs[0], tmp_path / "without", "-o", tmp_path / "refused", "--relabel")
    assert_fails(1, *merge, parts=["dump_router_input"])


class OddBlock(MoeBlock):
    """A gate of which the graph does not tell where the features lie."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.size(-1))
        scores = torch.softmax(torch.tensordot(tokens, self.gate.weight, dims=[[1], [1]]), dim=-1)
        weights, selected = torch.topk(scores, 2, dim=-1)
        outputs = torch.einsum("td,tkdf->tkf", tokens, self.experts[selected])
        return (outputs * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape)


@pytest.mark.parametrize("blocks", [(MoeBlock, OddBlock), (OddBlock, OddBlock)])
def test_what_the_graph_does_not_tell_is_said(moetap, model, padded, tmp_path, assert_fails, blocks):
    model.layers = nn.ModuleList([block() for block in blocks])
    torch.jit.script(model).save(tmp_path / "moe.pt")
    folder = save_inputs(tmp_path / "in", padded)
    run = (
        "run",
        tmp_path / "moe.pt",
        "--inputs",
        folder,
        "-o",
        tmp_path / "run",
        "--dump",
        "ids",
        "--dump-router-input",
    )
    if blocks[0] is OddBlock:
        assert_fails(2, *run, parts=["no router of the model shows", "tensordot"])
        return
    done = moetap(*run)
    assert done.returncode == 0
    assert 'the dump lacks the input of router "layers.1' in done.stderr
    columns = dump_of(tmp_path / "run")
    assert "0.input" in columns and "1.input" not in columns and columns["0.input"].shape == (10, WIDTH)


def test_a_recovered_run_has_the_inputs_of_an_undisturbed_one(moetap, saved, padded, tmp_path):
    """The second forward fails, so that the run does not finish."""
    wrong = moe_inputs(2, 1, seed=1)
    wrong["input_ids"][0, 0] = VOCABULARY
    folder = save_inputs(tmp_path / "in", [padded[0], wrong])
    options = ("--dump", "topk", "--dump-router-input")
    assert moetap("run", saved, "--inputs", folder, "-o", tmp_path / "run", *options).returncode == 1
    assert moetap("recover", tmp_path / "run").returncode == 0
    first = save_inputs(tmp_path / "first", padded[:1])
    assert_succeeded(moetap("run", saved, "--inputs", first, "-o", tmp_path / "whole", *options))
    recovered, whole = dump_of(tmp_path / "run"), dump_of(tmp_path / "whole")
    assert all(torch.equal(recovered[name], whole[name]) for name in whole)
    assert recovered["0.input"].shape == (8, WIDTH) and NUM_EXPERTS != WIDTH
