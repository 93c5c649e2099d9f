"""The notebook's arrays, and the tokens and slots in them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass
class NotebookArrays:
    """Gates and attention are widened to double before anything is computed."""

    gates: np.ndarray  # [L, B, S, E], of every expert
    topk: np.ndarray  # [L, B, S, K]
    tokens: np.ndarray  # [B, S]; -1 = padding
    attention: np.ndarray | None = None  # [L, B, S, S]: query, key
    topk_gates: bool = False  # gates divided by their sum over a token's slots

    def __post_init__(self):
        self.gates = np.asarray(self.gates).astype(np.float64)
        self.topk = np.asarray(self.topk).astype(np.int64)
        self.tokens = np.asarray(self.tokens).astype(np.int64)
        if self.attention is not None:
            self.attention = np.asarray(self.attention).astype(np.float64)

    @property
    def num_layers(self) -> int:
        return self.gates.shape[0]

    @property
    def num_samples(self) -> int:
        return self.gates.shape[1]

    @property
    def width(self) -> int:
        return self.gates.shape[2]

    @property
    def num_experts(self) -> int:
        return self.gates.shape[3]

    def length(self, sample: int) -> int:
        """n_b"""
        return int((self.tokens[sample] != -1).sum())

    def slots(self, layer: int, sample: int, position: int) -> Iterator[tuple[int, float]]:
        """(expert, gate) of each slot; a slot whose id is no expert is unassigned, in both definitions."""
        experts = [e for e in self.topk[layer, sample, position].tolist() if 0 <= e < self.num_experts]
        gates = [float(self.gates[layer, sample, position, e]) for e in experts]
        total = sum(gates) if self.topk_gates else 1.0
        for expert, gate in zip(experts, gates, strict=True):
            yield expert, gate / total if total > 0 else 0.0

    def places(self, with_padding: bool = False) -> Iterator[tuple[int, int]]:
        """(sample, position) of the valid tokens, or of all."""
        for sample in range(self.num_samples):
            for position in range(self.width):
                if with_padding or self.tokens[sample, position] != -1:
                    yield sample, position


def ranked(values: np.ndarray) -> list[int]:
    """Ids by descending value, ties to the lower id."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def table(columns: list[str], rows: list[tuple]) -> dict[str, list]:
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}
