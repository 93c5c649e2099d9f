"""What scripts/test_packages is made of, without a network: small models of our own stand for those of packages."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest
import torch
from conformance_checks.cases import find_cases
from package_checks import check, export, packages, surroundings
from package_checks.layer import Layer, Model
from package_checks.recorder import Watcher, call, dense_call
from torch import nn


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        logits = self.gate(x)
        weights, ids = logits.softmax(-1).topk(2, dim=-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            y = y + expert(x) * (weights * (ids == number)).sum(-1, keepdim=True)
        return y


class Branching(Mixture):
    """Runs one expert for all tokens: the one that the first token picks first."""

    def forward(self, x):
        ids = self.gate(x).topk(2, dim=-1)[1]
        return list(self.experts)[int(ids.flatten()[0])](x)


def read(f, result):
    assert result is f["y"]
    return call(f["logits"], f["ids"], f["weights"]).prove(f["self"].experts, f["x"], f["y"])


def layer(**options) -> Layer:
    return Layer("mixture", lambda: Model(Mixture()), {Mixture.forward: read}, **options)


def test_a_watched_function_gives_its_local_variables():
    mixture, x = Mixture(), torch.randn(2, 3, 16)
    with Watcher({Mixture.forward: read}) as calls:
        mixture(x)
        mixture(x)
    mixture(x)
    assert [tuple(made.ids.shape) for made in calls] == [(6, 2), (6, 2)]
    assert torch.equal(calls[0].logits, mixture.gate(x).reshape(6, 4))
    assert calls[0].proved


@pytest.mark.parametrize("wrong", ["ids", "weights", "slot", "neighbour"])
def test_an_oracle_that_does_not_explain_the_output_is_no_oracle(wrong):
    mixture, x = Mixture(), torch.randn(6, 16)
    weights, ids = mixture.gate(x).softmax(-1).topk(2, dim=-1)
    y = mixture(x)
    call(None, ids, weights).prove(mixture.experts, x, y)
    ids, weights = {
        "ids": ((ids + 1) % 4, weights),
        "weights": (ids, weights / weights.sum(-1, keepdim=True)),
        "slot": (ids[:, :1], weights[:, :1]),
        "neighbour": (ids.roll(1, 0), weights.roll(1, 0)),
    }[wrong]
    with pytest.raises(AssertionError):
        call(None, ids, weights).prove(mixture.experts, x, y)


def test_dense_weights_of_zero_are_no_choice():
    made = dense_call(None, torch.tensor([[0.0, 0.7, 0.3], [1.0, 0.0, 0.0]]))
    assert made.ids.tolist() == [[-1, 1, 2], [0, -1, -1]]


def test_an_exported_layer_is_a_case_of_conformance(tmp_path):
    assert export.export(layer(seed=1), tmp_path / "mixture") == "scripted"
    (model,) = find_cases(tmp_path, [])
    (oracle,) = model.methods[0].calls
    assert oracle.logits.shape == (24, 4) and oracle.ids.shape == (24, 2) and oracle.weights.shape == (24, 2)
    assert oracle.tokens.sample.tolist() == [0] * 12 + [1] * 12
    assert oracle.tokens.position.tolist() == [*range(12), *range(12)]


def test_calls_that_were_not_announced_are_an_error(tmp_path):
    with pytest.raises(AssertionError, match="1 calls of routers were recorded, 2 were announced"):
        export.export(layer(seed=1, routers=2), tmp_path / "mixture")


def test_a_trace_of_one_path_is_said_to_be_one(tmp_path):
    watched = {Branching.forward: lambda f, _: call(None, f["ids"], None)}
    branching = Layer("branching", lambda: Model(Branching()), watched, script=False)
    assert export.export(branching, tmp_path / "branching") == "traced, holds for these inputs only"
    assert export.export(layer(seed=1, script=False), tmp_path / "mixture") == "traced"


def test_a_program_that_computes_something_else_is_not_exported():
    model = nn.Linear(16, 16).eval()
    with pytest.raises(export.NotExportable, match=r"scripted: .*; traced: "):
        inputs = {"input": torch.randn(2, 16)}
        export.compile_model(Layer("linear", lambda: model, {}), model, inputs, torch.zeros(2, 16))


class Program:
    """A `moetap inspect` that lists one reason."""

    def __init__(self, folder, reason: str):
        self.path = folder / "moetap"
        skipped = json.dumps({"hooks": [], "skipped": [{"node": "%1", "reason": reason}]})
        self.path.write_text(f"#!/bin/sh\necho '{skipped}'\n")
        self.path.chmod(0o755)


@pytest.mark.parametrize(
    ("problems", "true_reason", "word"),
    [
        ([], "", "right"),
        (["no router found of 1"], "picks inside groups", "refused"),
        (["no router found of 1"], "another reason", "lost"),
        (["no router found of 1"], "", "lost"),
        (["gate withholds its weights: they sum to 2", "call 0: weights: shape None, oracle (24, 2)"], "", "refused"),
        (["call 0: weights: shape None, oracle (24, 2)"], "", "lost"),
        (["not found: call 1"], "", "lost"),
        (["ProgramFailed: moetap run exited with 1: every hook has stopped"], "", "lost"),
        (["gate withholds its logits: too few", "call 0: weights differ by 0.8, tolerance 2e-06"], "", "wrong"),
        (["call 0: ids differ in 3 of 24 tokens"], "picks inside groups", "wrong"),
        (["not a router: head"], "", "wrong"),
    ],
)
def test_the_verdict_on_a_layer(tmp_path, problems, true_reason, word):
    program = Program(tmp_path, "picks inside groups of scores")
    verdict = types.SimpleNamespace(
        comparison=types.SimpleNamespace(problems=problems, expected=1), model=types.SimpleNamespace(file="m.pt")
    )
    assert check.verdict_of(verdict, true_reason, program.path)[0] == word


def test_layers_with_the_same_result_share_a_row_of_the_table():
    results = [
        check.Result("one==1.0", "a", "traced", "right"),
        check.Result("one==1.0", "b", "traced", "right"),
        check.Result("one==1.0", "c", "traced", "lost", "no reason"),
        check.Result("two==2.0", "a", "traced", "right"),
    ]
    assert check.table(results)[2:] == [
        "| one 1.0 | a, b | traced | right |",
        "| one 1.0 | c | traced | lost: no reason |",
        "| two 2.0 | a | traced | right |",
    ]


def test_a_stub_stands_for_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    surroundings.stub("no_such_package", answer=42)
    import no_such_package.inner as inner
    from no_such_package import answer
    from no_such_package.inner import Base, decorate

    assert answer == 42 and inner.Base is Base
    assert type("Derived", (Base,), {})() is not None
    assert decorate(len) is len
    with pytest.raises(ImportError):
        import no_such_package_either  # noqa: F401


def test_every_package_is_pinned():
    names = check.package_names()
    assert len(names) >= 12
    for name in names:
        module = __import__(f"{packages.__name__}.{name}", fromlist=["REQUIREMENTS"])
        assert all(requirement.count("==") == 1 for requirement in module.REQUIREMENTS), name


def test_an_unknown_package_is_wrong_usage(root):
    program = [sys.executable, root / "scripts" / "test_packages"]
    done = subprocess.run([*program, "--moetap", "/bin/true", "--only", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "no package nothing" in done.stderr
