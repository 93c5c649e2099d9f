"""Traces a model and checks the trace against the eager model at another shape."""

from __future__ import annotations

import dataclasses
import warnings

import torch

from .build import wrap


class CannotTrace(RuntimeError):
    """Why a model cannot be traced, in one line."""


@dataclasses.dataclass
class Traced:
    module: torch.jit.ScriptModule
    eager: torch.nn.Module  # the wrapped model; its paths are those of `module`
    output: torch.Tensor  # of the eager model on the evaluation inputs
    max_difference: float  # between the traced and the eager output on the evaluation inputs


def trace(model, trace_inputs: dict[str, torch.Tensor], evaluation_inputs: dict[str, torch.Tensor]) -> Traced:
    eager = wrap(model, list(trace_inputs))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the tracer warns of every Python branch; the check below finds what matters
            module = torch.jit.trace(eager, tuple(trace_inputs.values()), check_trace=False).eval()
    except Exception as error:
        raise CannotTrace(f"the tracer refuses the model: {one_line(error)}") from error
    with torch.no_grad():
        expected = eager(*evaluation_inputs.values())
        try:
            actual = module(*evaluation_inputs.values())
        except RuntimeError as error:
            raise CannotTrace(f"the trace fails at another shape: {one_line(error)}") from error
    if actual.shape != expected.shape:
        raise CannotTrace(
            f"the trace holds for its own shape only: output {tuple(actual.shape)}, eager {tuple(expected.shape)}"
        )
    difference = (actual.float() - expected.float()).abs().max().item()
    if not difference == 0:
        raise CannotTrace(f"the trace differs from the eager model by {difference:.3g} at another shape")
    return Traced(module, eager, expected, difference)


def frozen(traced: Traced, evaluation_inputs: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    """The traced module after torch.jit.freeze, which changes the results of some models: that is checked here."""
    with torch.no_grad():
        module = torch.jit.freeze(traced.module)
        try:
            actual = module(*evaluation_inputs.values())
        except RuntimeError as error:
            raise CannotTrace(
                f"torch.jit.freeze breaks this model: {one_line(error)}; export it without --freeze"
            ) from error
    difference = (actual.float() - traced.output.float()).abs().max().item()
    # Freezing folds constants, which may change the last bits. A larger difference is an error.
    limit = 1e-4 if actual.dtype is torch.float32 else 5e-2
    if not difference <= limit * max(1.0, traced.output.float().abs().max().item()):
        raise CannotTrace(
            f"torch.jit.freeze changes this model's output by {difference:.3g}; export it without --freeze"
        )
    return module


def one_line(error: BaseException) -> str:
    """The line of an error that names its cause: in TorchScript's errors, one of the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wanted = [line for line in lines if "Error" in line or "expected" in line or "must" in line]
    return f"{type(error).__name__}: {((wanted or lines or ['no message'])[-1])[:240]}"
