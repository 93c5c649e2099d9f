"""What a package's own Python code computes: the oracle.

Nothing of a package is changed for it. A function is watched: when it returns, its local variables are read.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable

import torch


@dataclasses.dataclass
class Call:
    """One call of a router. T tokens, E experts, K slots."""

    logits: torch.Tensor | None  # [T, E]
    ids: torch.Tensor  # int64 [T, K]; -1: no expert
    weights: torch.Tensor | None  # [T, K]; None: nothing is multiplied
    proved: bool = False

    def prove(self, experts: list[Callable], x: torch.Tensor, y: torch.Tensor) -> Call:
        """The experts' outputs [T, D], summed with these ids and weights, are what the package computed: y [T, D]."""
        x, y = rows(x), rows(y)
        outputs = torch.stack([rows(expert(x)) for expert in experts], 1).float()  # [T, E, D]
        weights = torch.ones(self.ids.shape) if self.weights is None else self.weights
        dense = torch.zeros(len(self.ids), len(experts) + 1)
        dense.scatter_add_(1, torch.where(self.ids < 0, len(experts), self.ids), weights)
        expected = torch.einsum("te,ted->td", dense[:, :-1], outputs)
        close = 1e-4 if y.dtype == torch.float32 else 2e-2
        torch.testing.assert_close(y.float(), expected, rtol=close, atol=close)
        self.proved = True
        return self


def call(logits: torch.Tensor | None, ids: torch.Tensor, weights: torch.Tensor | None) -> Call:
    return Call(
        None if logits is None else rows(logits).float(),
        rows(ids).long(),
        None if weights is None else rows(weights).float(),
    )


def dense_call(logits: torch.Tensor | None, weights: torch.Tensor) -> Call:
    """As `call`, of weights [.., E] that are zero where an expert is not used."""
    experts = torch.arange(weights.shape[-1]).expand_as(weights)
    return call(logits, torch.where(weights != 0, experts, -1), weights)


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().reshape(-1, tensor.shape[-1])


class Watcher:
    """While it is entered, gives the local variables and the result of watched functions to their readers.

    A reader returns a `Call`, a list of them or None."""

    def __init__(self, watched: dict[Callable, Callable]):
        self.readers = {inspect.unwrap(function).__code__: reader for function, reader in watched.items()}
        self.calls: list[Call] = []

    def __enter__(self) -> list[Call]:
        sys.setprofile(self._event)
        return self.calls

    def __exit__(self, *exception) -> None:
        sys.setprofile(None)

    def _event(self, frame, event: str, result) -> None:
        reader = self.readers.get(frame.f_code) if event == "return" else None
        if reader is None:
            return
        sys.setprofile(None)  # a reader may call what is watched
        try:
            found = reader(frame.f_locals, result) or []
        finally:
            sys.setprofile(self._event)
        self.calls += found if isinstance(found, list) else [found]
