"""Models of transformers through moetap.attach: the same rows as their TorchScript export, and generation."""

from __future__ import annotations

import moetap
import pytest
import torch
from hf_export import build, examples, trace
from models import assert_same_dump, dump_of

# Routers that are modules and parts of a block, with groups and biases, without top-k, and beside a vision tower.
FAMILIES = ("mixtral", "qwen3_vl_moe", "gpt_oss", "deepseek_v3", "phimoe", "llama4_text", "olmoe")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_records_what_its_export_does(tmp_path, family):
    model = build.build_tiny(family, 0, "sdpa", "batched_mm", torch.float32)
    example, other = examples.example_inputs(model, 0)
    plain = model(**other)
    with moetap.attach(model, tmp_path / "eager", example_inputs=example, dump="topk"):
        recorded = model(**other)
    for name, value in plain.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(recorded[name], value), name
    exported = trace.trace(model, example, other).module
    with moetap.attach(exported, tmp_path / "script", dump="topk") as recording:
        recording.model(*other.values())
    assert_same_dump(dump_of(tmp_path / "eager"), dump_of(tmp_path / "script"))


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_generation_keeps_samples_positions_and_phases(tmp_path, experts):
    """64 tokens for three prompts of different lengths, padded on the left."""
    model = build.build_tiny("mixtral", 0, "sdpa", experts, torch.float32)
    lengths, width, new = [3, 6, 5], 6, 64
    ids = torch.randint(3, 90, (3, width), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : width - length] = 0
    arguments = {
        "input_ids": ids.masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "max_new_tokens": new,
        "do_sample": False,
        "eos_token_id": None,
    }
    plain = model.generate(**arguments)
    picks = []
    with moetap.attach(model, tmp_path / "run", dump="topk"):
        gate = model.model.layers[0].mlp.gate
        hook = gate.register_forward_hook(lambda module, args, result: picks.append(result))
        generated = model.generate(**arguments)
        hook.remove()
    assert torch.equal(generated, plain)
    dump = dump_of(tmp_path / "run")
    column = {name.rpartition("/")[2]: values for name, values in dump.items()}
    prompt = column["phase"] == 0
    keep = mask.bool()
    assert column["sample"][prompt].tolist() == keep.nonzero()[:, 0].tolist()
    assert column["position"][prompt].tolist() == keep.nonzero()[:, 1].tolist()
    assert column["token_id"][prompt].tolist() == ids[keep].tolist()
    # The last token is generated, but never read.
    assert column["sample"][~prompt].tolist() == [0, 1, 2] * (new - 1)
    assert column["token_id"][~prompt].tolist() == generated[:, width:-1].T.reshape(-1).tolist()
    # The first forward ran twice: once to find the routers.
    seen = [tuple(each)[2] for each in picks][-new:]
    want = torch.cat([seen[0][keep.reshape(-1)], *seen[1:]])
    assert torch.equal(column["0.selected"].long(), want)
