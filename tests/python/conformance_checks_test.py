"""The comparison behind scripts/conformance: it must see every kind of disagreement."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy
import pytest
import torch
from conformance_checks import capture, zoo
from conformance_checks.capture import CapturedCall, ProgramFailed, verify
from conformance_checks.cases import find_cases
from conformance_checks.check import Settings, check_model
from conformance_checks.compare import Comparison, bits_equal, compare_method, sort_slots
from conformance_checks.outputs import why_not_run
from safetensors.torch import save_file

TOKENS, EXPERTS, SLOTS = 6, 4, 2  # two sequences of three tokens
MASK = [[1, 1, 1], [1, 1, 0]]


@pytest.fixture
def oracle() -> dict[str, numpy.ndarray]:
    generator = numpy.random.default_rng(0)
    logits = generator.normal(size=(TOKENS, EXPERTS)).astype(numpy.float32)
    ids = numpy.argsort(-logits, axis=1)[:, :SLOTS]
    return {"logits": logits, "topk_ids": ids, "topk_weights": numpy.take_along_axis(logits, ids, axis=1)}


@pytest.fixture
def model(tmp_path, oracle) -> zoo.Model:
    (tmp_path / "m.pt").write_bytes(b"")
    ids = torch.zeros(2, 3, dtype=torch.long)
    order = {"forward_order": "input_ids,attention_mask"}
    tensors = {"input_ids": ids, "attention_mask": torch.tensor(MASK)}
    save_file(tensors, str(tmp_path / "m.inputs.safetensors"), metadata=order)
    layers = [{"key": "layers.1.mlp.gate", "E": EXPERTS}]
    facts = {"name": "m", "pattern": "A2", "source": "hf-trace", "post": None, "moe_layers": layers}
    (tmp_path / "m.json").write_text(json.dumps(facts))
    arrays = {f"moe/layers.1.mlp.gate/{name}": array for name, array in oracle.items()}
    numpy.savez(tmp_path / "m.oracle.npz", output=numpy.zeros(1), **arrays)
    return zoo.find_models(tmp_path, [])[0]


def hook(name: str = "layers.1.mlp.gate") -> dict:
    return {"name": name, "kind": "router", "method": "forward", "component": "language_model", "layer": "1"}


def captured(oracle, entry: dict, rows=(0, 1, 2, 3, 4)) -> CapturedCall:
    rows = torch.tensor(rows)
    return CapturedCall(
        entry,
        rows // 3,
        rows % 3,
        torch.from_numpy(oracle["topk_ids"])[rows],
        torch.from_numpy(oracle["topk_weights"])[rows],
        torch.from_numpy(oracle["logits"])[rows],
    )


def compare(model, hooks, calls) -> Comparison:
    result = Comparison()
    compare_method(result, model, model.methods[0], hooks, calls, tolerance=2e-6)
    return result


def test_equal_capture_agrees_whatever_the_order_of_slots(model, oracle):
    entry = hook()
    call = captured(oracle, entry)
    call.selected, call.weights = call.selected.flip(1), call.weights.flip(1)
    result = compare(model, [entry], [call])
    assert result.problems == []
    assert (result.found, result.expected) == (1, 1)


def test_hook_may_be_named_for_the_projection_within_the_router(model, oracle):
    entry = hook("layers.1.mlp.gate.proj")
    assert compare(model, [entry], [captured(oracle, entry)]).problems == []


@pytest.mark.parametrize("what", ["selected", "weights", "logits"])
def test_one_wrong_value_is_seen(model, oracle, what):
    entry = hook()
    call = captured(oracle, entry)
    tensor = getattr(call, what).clone()
    tensor[2, 0] = 7 if what == "selected" else tensor[2, 0] * (1 + 1e-4)
    setattr(call, what, tensor)
    problems = compare(model, [entry], [call]).problems
    assert len(problems) == 1
    assert {"selected": "ids", "weights": "weights", "logits": "logits"}[what] in problems[0]


def test_weights_of_swapped_experts_are_seen(model, oracle):
    entry = hook()
    call = captured(oracle, entry)
    call.weights = call.weights.flip(1)
    assert "weights" in compare(model, [entry], [call]).problems[0]


@pytest.mark.parametrize("rows", [(0, 1, 2, 3, 4, 5), (0, 1, 2, 3), (0, 1, 2, 3, 3)])
def test_rows_must_be_the_valid_tokens(model, oracle, rows):
    entry = hook()
    assert "rows are other tokens" in compare(model, [entry], [captured(oracle, entry, rows)]).problems[0]


def test_missing_and_extra_routers_are_seen(model, oracle):
    other = hook("lm_head")
    problems = " ".join(compare(model, [other], [captured(oracle, other)]).problems)
    assert "not found: layers.1.mlp.gate" in problems
    assert "not a router: lm_head" in problems


def test_hook_without_rows_in_a_model_without_branches_is_seen(model, oracle):
    entry, silent = hook(), hook("layers.2.mlp.gate")
    assert "no rows for layers.2.mlp.gate" in compare(model, [entry, silent], [captured(oracle, entry)]).problems[0]


def test_expert_choice_oracle_becomes_experts_of_each_token():
    ids, weights = zoo._from_expert_choice(numpy.array([[0, 2], [2, 1]]), numpy.array([[0.5, 0.25], [1.0, 2.0]]), 4)
    ids, weights = sort_slots(ids, weights)
    assert ids.tolist() == [[0, -1], [1, -1], [0, 1], [-1, -1]]
    assert weights.tolist() == [[0.5, 0], [2.0, 0], [0.25, 1.0], [0, 0]]


def test_bits_equal_tells_signed_zeros_and_accepts_equal_nans():
    nan = torch.tensor([float("nan"), 1.0])
    assert bits_equal(nan, nan.clone())
    assert not bits_equal(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not bits_equal(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not bits_equal(torch.zeros(2), torch.zeros(1, 2))


def test_incomplete_model_is_named(model):
    model.file.unlink()
    with pytest.raises(ValueError, match=r"'m' .* incomplete: no m\.pt"):
        zoo.find_models(model.file.parent, [])


class Sum(torch.nn.Module):
    def forward(self, input_ids, attention_mask):
        return input_ids + attention_mask


class WrongShapes(torch.nn.Module):
    def forward(self, input_ids, attention_mask):
        return input_ids.float() @ attention_mask.float()


@pytest.mark.parametrize("module, reason", [(Sum(), ""), (WrongShapes(), "RuntimeError")])
def test_model_that_pytorch_cannot_run_is_told_from_one_that_it_can(model, module, reason):
    torch.jit.script(module).save(str(model.file))
    assert why_not_run(model).startswith(reason) and bool(why_not_run(model)) == bool(reason)


@pytest.fixture
def verifying(tmp_path):
    """A program that prints a text and exits with a status, in the place of moetap."""

    def make(printed: str, status: int) -> pathlib.Path:
        (tmp_path / "printed").write_text(printed)
        program = tmp_path / "moetap"
        program.write_text(f"#!/bin/sh\ncat '{tmp_path}/printed'\necho 'moetap: why' >&2\nexit {status}\n")
        program.chmod(0o755)
        return program

    return make


def proof(verdict: str, same: bool = True) -> str:
    check = {"what": "ids", "verdict": verdict, "why": "" if verdict == "proven" else "a reason"}
    return json.dumps({"output_identical": same, "hooks": [{"name": "gate", "kind": "router", "checks": [check]}]})


def test_a_refuted_hook_and_another_output_are_problems(verifying):
    arguments = (pathlib.Path("model.pt"), pathlib.Path("in.pt"), "forward")
    for verdict in ("proven", "not shown"):
        shown = verify(verifying(proof(verdict), 0), *arguments)
        assert (shown.refuted, shown.checks) == ([], [("ids", verdict)])
    assert verify(verifying(proof("refuted"), 1), *arguments).refuted == ["gate: ids refuted: a reason"]
    assert "output" in verify(verifying(proof("proven", same=False), 1), *arguments).refuted[0]
    with pytest.raises(ProgramFailed, match="why"):
        verify(verifying("", 1), *arguments)


@pytest.mark.parametrize(
    "calls, hooks, problems",
    [
        (0, [], []),
        (0, [hook("moe.gate")], ["no router must be found, found: moe.gate"]),
        (1, [], ["no router found of 1 (indexes tokens, not experts)"]),
    ],
)
def test_case_says_why_nothing_was_found_and_look_alike_fails_by_a_hook(tmp_path, monkeypatch, calls, hooks, problems):
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"")
    save_file({"input_ids": torch.zeros(1, 2, dtype=torch.long)}, str(folder / "in.safetensors"))
    (folder / "expect.json").write_text(json.dumps({"routers": calls}))
    if calls:
        save_file({"0.ids": torch.zeros(2, 1, dtype=torch.long)}, str(folder / "oracle.safetensors"))
    skipped = [{"node": "topk", "reason": "indexes tokens, not experts"}]
    monkeypatch.setattr(capture, "inspect", lambda *_: {"hooks": hooks, "skipped": skipped})
    verdict = check_model(find_cases(tmp_path, [])[0], Settings(tmp_path / "moetap", None, 2e-5, 2e-2))
    assert verdict.comparison.problems == problems and verdict.passed == (not problems)


def test_program_refuses_wrong_usage(tmp_path, root):
    program = [sys.executable, root / "scripts" / "conformance"]
    absent = subprocess.run([*program, tmp_path / "absent"], capture_output=True, text=True)
    assert absent.returncode == 2 and "must be a directory" in absent.stderr
    unbuilt = subprocess.run([*program, tmp_path, "--moetap", tmp_path / "none"], capture_output=True, text=True)
    assert unbuilt.returncode == 2 and "no program" in unbuilt.stderr
