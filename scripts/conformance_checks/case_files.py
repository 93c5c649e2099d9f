"""Writes case folders, which cases.py reads: a model, its inputs, and what its eager code routed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Protocol

import torch
from safetensors.torch import save_file


class RoutedCall(Protocol):
    """What one call of a router did; what the oracle does not have is None."""

    logits: torch.Tensor | None  # [num_tokens, num_experts]
    ids: torch.Tensor | None  # [num_tokens, top_k]
    weights: torch.Tensor | None  # [num_tokens, top_k]


def run_model(model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The first tensor of the model's output."""
    torch.manual_seed(0)  # as `moetap run` does: a model may draw noise
    output = model(**inputs)
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output.clone()


def check_ties(call: RoutedCall, least_gap: float) -> None:
    """An oracle whose pick hangs on the last bits proves nothing."""
    if call.logits is None:
        return
    gaps = call.logits.sort(dim=1).values.diff(dim=1).nan_to_num(1.0)
    if gaps.min() < least_gap:
        raise AssertionError("two logits of a token are as good as equal: take another seed")


def write_case(
    folder: pathlib.Path, compiled, inputs: dict[str, object], calls: Sequence[RoutedCall], facts: dict
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    compiled.save(str(folder / "model.pt"))
    if all(isinstance(value, torch.Tensor) for value in inputs.values()):
        save_file({name: value.contiguous() for name, value in inputs.items()}, str(folder / "in.safetensors"))
    else:  # lists of tensors among them
        torch.save(inputs, folder / "in.pt")
    if calls:
        save_file(_oracle(calls), str(folder / "oracle.safetensors"))
    (folder / "expect.json").write_text(json.dumps(facts))


def _oracle(calls: Sequence[RoutedCall]) -> dict[str, torch.Tensor]:
    arrays = {}
    for number, call in enumerate(calls):
        for name in ("logits", "ids", "weights"):
            value = getattr(call, name)
            if value is not None:
                arrays[f"{number}.{name}"] = value.contiguous()
    return arrays
