"""scripts/export_hf.py --with-cache: real families generate under moetap, prompt and steps told apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import export_hf
import pytest
import torch

NUM_TOKENS = 5
FAMILIES = ["mixtral", "qwen3_moe"]


@pytest.fixture
def generation(root, monkeypatch):
    """The module examples/generation/generate.py."""
    monkeypatch.syspath_prepend(str(root / "examples" / "generation"))
    import generate

    return generate


def export(family: str, folder) -> None:
    assert export_hf.main(["--family", family, "--tiny", "-o", str(folder), "--with-cache"]) == 0


def eager_tokens(family: str, generation) -> list[list[int]]:
    """What `generate` of transformers makes of the example's prompts."""
    from hf_export.build import build_tiny

    model = build_tiny(family, 0, "sdpa", "batched_mm", torch.float32)
    tokens = []
    for seed, lengths in enumerate(generation.PROMPT_LENGTHS):
        prompts, mask = generation.make_prompts(lengths, seed)
        options = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        whole = model.generate(input_ids=prompts, attention_mask=mask, **options)
        tokens += whole[:, prompts.shape[1] :].tolist()
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_generates_what_transformers_generates(family, generation, tmp_path):
    export(family, tmp_path)
    model = torch.jit.load(tmp_path / "model.pt")
    tokens = []
    with torch.no_grad():
        for seed, lengths in enumerate(generation.PROMPT_LENGTHS):
            prompts, mask = generation.make_prompts(lengths, seed)
            tokens += generation.generate(model, prompts, mask, NUM_TOKENS, lambda is_step: None).tolist()
    assert tokens == eager_tokens(family, generation)
    assert len({token for line in tokens for token in line}) > 1


@pytest.mark.skipif(bool(os.environ.get("MOETAP_SANITIZER")), reason="this Python is not built with the sanitizer")
def test_a_preloaded_generation_has_one_entry_a_sample_with_both_phases(generation, moetap, root, tmp_path):
    export("qwen3_moe", tmp_path)
    subprocess.run([moetap, "instrument", tmp_path / "model.pt", "-o", tmp_path / "model.tap.pt"], check=True)
    library = moetap.parent.parent / "lib" / "libmoetap.so"
    done = subprocess.run(
        [sys.executable, root / "examples" / "generation" / "generate.py", tmp_path / "model.tap.pt", str(NUM_TOKENS)],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_PRELOAD": str(library), "MOETAP_OUTPUT_DIR": str(tmp_path / "run")},
    )
    assert done.returncode == 0, done.stderr
    assert "continue no prompt" not in done.stderr
    assert [[int(token) for token in line.split()] for line in done.stdout.splitlines()] == eager_tokens(
        "qwen3_moe", generation
    )
    lengths = [length for batch in generation.PROMPT_LENGTHS for length in batch]
    log = json.loads((tmp_path / "run" / "log_metrics.json").read_text())["logs"]
    assert [entry["doc_id"] for entry in log] == list(range(len(lengths)))
    phases = json.loads((tmp_path / "run" / "moetap" / "summary.json").read_text())["phases"]
    tokens = {
        phase: {layer["tokens"] for layer in values["components"]["language_model"].values()}
        for phase, values in phases.items()
    }
    # The last generated token is not run again.
    assert tokens == {"prompt": {sum(lengths)}, "generation": {len(lengths) * (NUM_TOKENS - 1)}}


def test_a_cache_that_is_no_one_tensor_is_refused_in_one_line(tmp_path, capsys):
    for family, said in [
        ("jamba", "caches of keys and values alone"),
        ("switch_transformers", "for decoders"),
        ("deepseek_v3", "of one shape in all layers"),
    ]:
        assert export_hf.main(["--family", family, "--tiny", "-o", str(tmp_path), "--with-cache"]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and said in error[0], error
    assert not (tmp_path / "model.pt").exists()
    for option in ["--oracle", "--freeze", "--for-conformance"]:
        with pytest.raises(SystemExit) as exit_status:
            export_hf.main(["--family", "mixtral", "--tiny", "-o", str(tmp_path), "--with-cache", option])
        assert exit_status.value.code == 2
