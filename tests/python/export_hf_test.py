"""scripts/export_hf.py, and what moetap captures from its exports against Python hooks on the eager models."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import export_hf
import numpy
import pytest
import torch
from safetensors.torch import load_file

# Families of different patterns and the number of their routers with --tiny.
FAMILIES = {
    "qwen3_vl_moe": 2,  # vision-language; softmax, top-k, renormalised
    "mixtral": 3,  # softmax, top-k, renormalised
    "gpt_oss": 3,  # softmax over the picked logits
    "deepseek_v3": 2,  # groups, sigmoid, selection bias
    "deepseek_v2": 2,  # groups, softmax
    "phimoe": 3,  # two masked softmaxes, no top-k
    "llama4_text": 3,  # dense scores of all experts
    "ernie4_5_moe": 2,  # softmax with a selection bias
    "switch_transformers": 4,  # argmax with capacity, encoder and decoder
    "jetmoe": 6,  # attention heads and MLPs are experts
    "deepseek_v32": 2,  # an indexer that picks tokens beside the routers
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A directory with one export a family, as scripts/conformance reads it."""
    directory = tmp_path_factory.mktemp("exports")
    for family in FAMILIES:
        assert export_hf.main(["--family", family, "--tiny", "-o", str(directory), "--for-conformance"]) == 0, family
    return directory


@pytest.mark.parametrize("family", FAMILIES)
def test_export_has_inputs_named_for_the_forward_and_an_oracle(exports, family):
    module = torch.jit.load(str(exports / f"{family}.pt"))
    inputs = load_file(str(exports / f"{family}.inputs.safetensors"))
    arguments = [argument.name for argument in module.forward.schema.arguments[1:]]
    assert set(inputs) == set(arguments)
    oracle = numpy.load(exports / f"{family}.oracle.npz")
    facts = json.loads((exports / f"{family}.json").read_text())
    assert len(facts["moe_layers"]) == FAMILIES[family]
    with torch.no_grad():
        output = module(*[inputs[name] for name in arguments])
    numpy.testing.assert_array_equal(output.numpy(), oracle["output"])
    for layer in facts["moe_layers"]:
        ids = oracle[f"moe/{layer['key']}/topk_ids"]
        assert ids.min() >= 0 and ids.max() < layer["E"]
        assert len(numpy.unique(ids)) > 1  # a router that always picks one expert would test nothing


def test_moetap_captures_what_the_eager_models_did(exports, moetap, root):
    # The outputs are those of a Python with the library, and this one is not built with the sanitizer.
    outputs = ["--no-outputs"] if os.environ.get("MOETAP_SANITIZER") else []
    done = subprocess.run(
        [sys.executable, root / "scripts" / "conformance", exports, "--moetap", moetap, "--same-machine", *outputs],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FAMILIES)} of {len(FAMILIES)} models agree" in done.stdout
    assert f"routers {sum(FAMILIES.values())}/{sum(FAMILIES.values())}, 0 skipped" in done.stdout


def test_plain_export_of_a_checkpoint_gives_its_output(tmp_path, capsys):
    from hf_export.build import build_tiny

    model = build_tiny("qwen3_moe", 3, "sdpa", "batched_mm", torch.float32)
    model.save_pretrained(tmp_path / "checkpoint")
    assert export_hf.main([str(tmp_path / "checkpoint"), "-o", str(tmp_path / "export"), "--oracle"]) == 0
    assert "max |traced - eager| = 0" in capsys.readouterr().out
    inputs = load_file(str(tmp_path / "export" / "inputs" / "0000.safetensors"))
    module = torch.jit.load(str(tmp_path / "export" / "model.pt"))
    with torch.no_grad():
        expected = model(**inputs, use_cache=False).logits
        assert torch.equal(module(inputs["input_ids"], inputs["attention_mask"]), expected)
    assert numpy.load(tmp_path / "export" / "oracle.npz")["output"].shape == tuple(expected.shape)


def test_patched_model_says_what_was_patched(tmp_path, capsys):
    assert export_hf.main(["--family", "longcat_flash", "--tiny", "-o", str(tmp_path)]) == 0
    assert "patched: LongcatFlashExperts.forward" in capsys.readouterr().out


def test_trace_of_one_length_only_says_so(tmp_path, capsys):
    assert export_hf.main(["--family", "jamba", "--tiny", "-o", str(tmp_path)]) == 0
    assert "the trace holds for sequence length 16 only" in capsys.readouterr().out


def test_untraceable_model_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    from hf_export import patches

    monkeypatch.setattr(patches, "REPLACEMENTS", {})
    assert export_hf.main(["--family", "switch_transformers", "--tiny", "-o", str(tmp_path)]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "cannot be traced" in error[0]
    assert not (tmp_path / "model.pt").exists()


def test_wrong_usage(tmp_path, capsys):
    assert export_hf.main(["--family", "no_such_family", "--tiny", "-o", str(tmp_path)]) == 1
    assert "no_such_family" in capsys.readouterr().err
    assert export_hf.main([str(tmp_path / "absent"), "-o", str(tmp_path)]) == 1
    assert "must be a directory" in capsys.readouterr().err
    for arguments in (["--family", "mixtral", "--tiny"], ["--family", "mixtral", "-o", "x"], ["-o", "x"]):
        with pytest.raises(SystemExit) as exit_status:
            export_hf.main(arguments)
        assert exit_status.value.code == 2


def test_list_names_the_families(capsys):
    assert export_hf.main(["--list"]) == 0
    assert set(FAMILIES) <= set(capsys.readouterr().out.split())
