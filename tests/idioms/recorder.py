"""What an eager model tells about its routing: the oracle.

An idiom calls `seen` and `used` behind `if not torch.jit.is_scripting():` or, where it is traced, behind `if on():`, so
that no compiled model holds a trace of them. `used` also proves what it is told: the experts' outputs, summed with
these ids and weights, must give the output that the module computed in its own way.
"""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass
class Call:
    logits: torch.Tensor | None  # [T, E]
    ids: torch.Tensor  # [T, K]; -1: no expert
    weights: torch.Tensor | None  # [T, K]; None: nothing is multiplied
    proved: bool


_calls: list[Call] | None = None
_logits: torch.Tensor | None = None


def on() -> bool:
    return _calls is not None


def start() -> None:
    global _calls
    _calls = []


def stop() -> list[Call]:
    global _calls
    calls, _calls = _calls, None
    return calls


def seen(logits: torch.Tensor) -> None:
    """What enters the scoring function, or the pick where nothing scores before it. [.., E]"""
    global _logits
    if on():
        _logits = rows(logits).float()


def used(moe, ids, weights, x=None, y=None) -> None:
    """One call of a router: ids and weights [.., K]; without weights nothing multiplies the experts' outputs.

    x [.., D] is what the experts read, y [.., D] the sum of their outputs. Without them the call is not proved."""
    global _logits
    if not on():
        return
    ids = rows(ids)
    factors_of_slots = torch.ones(ids.shape) if weights is None else rows(weights).float()
    factors_of_slots = factors_of_slots.masked_fill(ids < 0, 0)  # of no expert: they multiply nothing
    if x is not None:
        outputs = torch.stack([moe.expert(e, rows(x)) for e in range(moe.e)], 1)  # [T, E, D]
        factors = torch.zeros(len(ids), moe.e + 1)
        factors.scatter_add_(1, torch.where(ids < 0, moe.e, ids).clamp(max=moe.e), factors_of_slots)
        expected = torch.einsum("te,ted->td", factors[:, :-1], outputs.float())
        torch.testing.assert_close(rows(y).float(), expected, rtol=moe.close, atol=moe.close)
    _calls.append(Call(_logits, ids, None if weights is None else factors_of_slots, x is not None))
    _logits = None


def used_dense(moe, weights, x=None, y=None) -> None:
    """As `used`, of weights [.., E] that are zero where an expert is not used."""
    experts = torch.arange(weights.shape[-1]).expand_as(weights)
    used(moe, torch.where(weights != 0, experts, -1), weights, x, y)


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().reshape(-1, tensor.shape[-1])
