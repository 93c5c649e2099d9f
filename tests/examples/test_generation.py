"""examples/generation: prompts and steps belong to their samples, by labels and by the rule for unchanged hosts."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import LIBRARY, MOETAP, ROOT, is_whole, read_counters, read_log, run
from safetensors.torch import load_file

EXAMPLE = ROOT / "examples" / "generation"
sys.path.insert(0, str(EXAMPLE))

from generate import PROMPT_LENGTHS, empty_cache, make_prompts  # noqa: E402
from model import LAYERS, TOP_K  # noqa: E402

NUM_TOKENS = 6
NUM_SAMPLES = sum(map(len, PROMPT_LENGTHS))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    plain = folder / "decoder.pt"
    assert run([sys.executable, EXAMPLE / "model.py", plain], preload=False).status == 0
    done = run([MOETAP, "instrument", plain, "-o", folder / "decoder.tap.pt"], preload=False)
    assert done.status == 0, done.errors
    return folder / "decoder.tap.pt"


def generate(model: Path, *options, **environment) -> list[list[int]]:
    done = run([sys.executable, EXAMPLE / "generate.py", model, NUM_TOKENS, *options], **environment)
    assert (done.status, done.errors) == (0, [])
    return [[int(token) for token in line.split()] for line in done.output.splitlines()]


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory) -> dict:
    """The run directory of each way, and the tokens that were generated."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "config.json").write_text(json.dumps({"output_dir": str(folder / "rule"), "dump": "topk"}))
    tokens = generate(model, MOETAP_CONFIG=folder / "config.json")
    assert generate(model, "--label", LIBRARY, folder / "label", preload=False) == tokens
    return {"rule": folder / "rule", "label": folder / "label", "tokens": tokens}


def read_dump(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "moetap" / "dump" / "rank0" / "language_model-000000.safetensors")


@pytest.mark.parametrize("way", ["rule", "label"])
def test_each_sample_has_one_entry_of_all_its_forwards(way, runs):
    folder = runs[way]
    assert is_whole(folder)
    entries = read_log(folder)
    assert [entry["doc_id"] for entry in entries] == list(range(NUM_SAMPLES))
    lengths = [length for batch in PROMPT_LENGTHS for length in batch]
    for entry, length in zip(entries, lengths, strict=True):
        for layer in map(str, range(LAYERS)):
            metrics = entry["logs_metrics_vision"][0][0][layer]
            # The last token is generated and not run again.
            assert sum(metrics["dist_experts_top2"]) == TOP_K * (length + NUM_TOKENS - 1)


@pytest.mark.parametrize("way", ["rule", "label"])
def test_prompt_and_generation_are_told_apart(way, runs):
    summary = json.loads((runs[way] / "moetap" / "summary.json").read_text())
    prompt_tokens = sum(map(sum, PROMPT_LENGTHS))
    step_tokens = NUM_SAMPLES * (NUM_TOKENS - 1)
    phases = summary["phases"]
    for layer in map(str, range(LAYERS)):
        of_phase = {name: phases[name]["components"]["language_model"][layer] for name in phases}
        assert of_phase["prompt"]["tokens"] == prompt_tokens
        assert of_phase["generation"]["tokens"] == step_tokens
        whole = summary["components"]["language_model"][layer]
        assert whole["selected_count"] == [
            sum(counts) for counts in zip(*(of["selected_count"] for of in of_phase.values()), strict=True)
        ]
    phase = read_dump(runs[way])["phase"]
    assert (phase == 0).sum() == prompt_tokens
    assert (phase == 1).sum() == step_tokens


def test_the_rule_gives_what_labels_give(runs):
    assert read_log(runs["rule"]) == read_log(runs["label"])
    assert read_counters(runs["rule"]) == read_counters(runs["label"])
    labelled = read_dump(runs["label"])
    for name, column in read_dump(runs["rule"]).items():
        assert torch.equal(column, labelled[name]), name


def test_rows_are_those_of_a_forward_over_the_whole_text(model, runs, tmp_path):
    """One forward over prompt and generated tokens, without a cache, gives the same tokens the same experts."""
    texts = []
    for seed, lengths in enumerate(PROMPT_LENGTHS):
        prompts, mask = make_prompts(lengths, seed)
        texts += [row[valid.bool()].tolist() for row, valid in zip(prompts, mask, strict=True)]
    torch.ops.load_library(LIBRARY)
    decoder = torch.jit.load(model)
    whole = [text + tokens[:-1] for text, tokens in zip(texts, runs["tokens"], strict=True)]
    for sample, text in enumerate(whole):
        ids = torch.tensor([text])
        torch.save((ids, torch.ones_like(ids), empty_cache(decoder, 1)), tmp_path / f"{sample}.pt")
    inputs = [tmp_path / f"{sample}.pt" for sample in range(NUM_SAMPLES)]
    reference = tmp_path / "run"
    done = run([MOETAP, "run", model, "--inputs", *inputs, "-o", reference, "--dump", "topk"], preload=False)
    assert done.status == 0, done.errors
    expected, actual = read_dump(reference), read_dump(runs["rule"])
    for sample, text in enumerate(whole):
        of_reference, of_run = expected["sample"] == sample, actual["sample"] == sample
        assert actual["token_id"][of_run].tolist() == text
        for layer in range(LAYERS):
            name = f"{layer}.selected"
            assert torch.equal(actual[name][of_run], expected[name][of_reference])


def test_another_batch_in_between_is_not_taken_for_a_step(model, tmp_path):
    """A host runs two requests in turns: the masks show that a step does not continue the last prompt."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(EXAMPLE)!r})
from generate import empty_cache
model = torch.jit.load(sys.argv[1])
prompts = [torch.arange(5)[None], torch.arange(9)[None]]
caches = [model(ids, torch.ones_like(ids), empty_cache(model, 1))[1] for ids in prompts]
for ids, cache in zip(prompts, caches):
    model(torch.ones(1, 1).long(), torch.ones(1, ids.size(1) + 1).long(), cache)
"""
    done = run([sys.executable, "-c", code, model], MOETAP_OUTPUT_DIR=tmp_path / "run")
    assert done.status == 0
    assert len(done.errors) == 1
    assert "continue no prompt that is known" in done.errors[0]
    entries = read_log(tmp_path / "run")
    tokens = [sum(entry["logs_metrics_vision"][0][0]["0"]["dist_experts_top2"]) // TOP_K for entry in entries]
    assert tokens == [5, 10, 1]  # the first request's step is a sample of its own: nothing false is merged
