"""The notebook's studies (recommended definitions) in NumPy, and the loops over elements that they replace: what
studies_benchmark.py compares moetap with. No tables are written."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

REGIONS = 5
BAND = 5


class Arrays:
    """Memory-mapped arrays of a folder."""

    def __init__(self, folder: Path):
        self.attention = np.load(folder / "attn_weights.npy", mmap_mode="r")
        self.gates = np.load(folder / "gate_scores.npy", mmap_mode="r")
        self.topk = np.load(folder / "topk_idx.npy", mmap_mode="r")
        self.types = np.load(folder / "token_types.npy")
        self.valid = self.types != -1
        self.length = self.valid.sum(axis=1)
        self.num_layers, self.num_samples, self.width, self.num_experts = self.gates.shape


def cells(arrays: Arrays, samples: Iterable[int], layers: int) -> int:
    """Valid cells of attention."""
    return layers * sum(int(arrays.length[b]) ** 2 for b in samples)


class Attention:
    """Sums by expert of one layer, whole samples at a time."""

    def __init__(self, num_experts: int):
        self.mass = np.zeros(num_experts)
        self.distance = np.zeros(num_experts)
        self.strength = np.zeros(num_experts)
        self.flow = np.zeros((num_experts, REGIONS, REGIONS))
        self.observed = np.zeros((num_experts, 6))
        self.expected = np.zeros((num_experts, 6))

    def add(self, a: np.ndarray, ids: np.ndarray, gates: np.ndarray) -> None:
        """a: float32 [n, n]; ids and gates [n, K]."""
        n = len(a)
        place = np.arange(n)
        prefix = np.zeros((n, n + 1))
        np.cumsum(a, axis=1, out=prefix[:, 1:], dtype=np.float64)
        total = prefix[:, n]
        cuts = np.arange(REGIONS + 1) * n // REGIONS
        into = np.diff(prefix[:, cuts], axis=1) / total[:, None]
        start = np.searchsorted(cuts[1:-1], place, side="right")
        distance = np.einsum("ij,ij->i", a, np.abs(place[:, None] - place), dtype=np.float64)
        observed, expected = self.plane(prefix, n)
        for slot in range(ids.shape[1]):
            e, g = ids[:, slot], gates[:, slot]
            np.add.at(self.mass, e, g)
            np.add.at(self.distance, e, g * distance)
            np.add.at(self.strength, e, g * n * total)
            np.add.at(self.flow, (e, start), g[:, None] * into)
            np.add.at(self.observed, e, g[:, None] * observed / total[:, None])
            np.add.at(self.expected, e, g[:, None] * expected)

    @staticmethod
    def plane(prefix: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Mass of each row in the six regions, and their share of the keys, [n, 6] both."""
        place = np.arange(n)
        q, c, half = n // 4, 3 * n // 4, n // 2
        low, high = np.maximum(0, place - BAND), np.minimum(n, place + BAND + 1)
        before, behind = np.maximum(0, place - half), np.minimum(n, place + half + 1)
        first, last = place < q, place >= c
        keys = [
            [(low, high)],
            [(0 * place, before), (behind, n + 0 * place)],
            [(0 * place, first * q)],
            [(c + 0 * place, np.where(last, n, c))],
            [(c + 0 * place, np.where(first, n, c))],
            [(0 * place, last * q)],
        ]
        mass = np.stack([sum(prefix[place, end] - prefix[place, begin] for begin, end in one) for one in keys], axis=1)
        share = np.stack([sum((end - begin) / n for begin, end in one) for one in keys], axis=1)
        return mass, share


def vectorised(arrays: Arrays) -> dict:
    """All studies of routing and attention."""
    found = {}
    previous = None
    for layer in range(arrays.num_layers):
        attention = Attention(arrays.num_experts)
        for sample in range(arrays.num_samples):
            n = int(arrays.length[sample])
            if n == 0:
                continue
            ids = arrays.topk[layer, sample, :n]
            gates = np.take_along_axis(arrays.gates[layer, sample, :n], ids, axis=1).astype(np.float64)
            attention.add(arrays.attention[layer, sample, :n, :n], ids, gates)
        ids = arrays.topk[layer][arrays.valid]
        gates = np.take_along_axis(arrays.gates[layer][arrays.valid], ids, axis=1).astype(np.float64)
        found[layer] = {"attention": attention, "routing": routing(ids, gates, arrays.num_experts)}
        if previous is not None:
            found[layer]["transitions"] = transitions(previous, (ids, gates), arrays.num_experts)
        previous = ids, gates
    return found


def routing(ids: np.ndarray, gates: np.ndarray, num_experts: int) -> dict:
    """Usage, importance, cooperation."""
    strength = np.zeros((num_experts, num_experts))
    together = np.zeros((num_experts, num_experts))
    for a in range(ids.shape[1]):
        for b in range(ids.shape[1]):
            if a != b:
                np.add.at(strength, (ids[:, a], ids[:, b]), np.sqrt(gates[:, a] * gates[:, b]))
                np.add.at(together, (ids[:, a], ids[:, b]), 1)
    counts = np.bincount(ids.ravel(), minlength=num_experts)
    importance = np.bincount(ids.ravel(), weights=gates.ravel(), minlength=num_experts)
    return {"counts": counts, "importance": importance, "strength": strength, "together": together}


def transitions(one: tuple, other: tuple, num_experts: int) -> np.ndarray:
    sums = np.zeros((num_experts, num_experts))
    for a in range(one[0].shape[1]):
        for b in range(other[0].shape[1]):
            np.add.at(sums, (one[0][:, a], other[0][:, b]), one[1][:, a] * other[1][:, b])
    return sums


def looped(arrays: Arrays, layer: int, samples: Iterable[int]) -> np.ndarray:
    """The attention studies element by element, as notebooks write them, of some samples of one layer. Returns the
    sums of g * distance, [E]."""
    distances = np.zeros(arrays.num_experts)
    flow = np.zeros((arrays.num_experts, REGIONS, REGIONS))
    observed = np.zeros((arrays.num_experts, 6))
    for sample in samples:
        n = int(arrays.length[sample])
        q, c, half = n // 4, 3 * n // 4, n // 2
        a = np.array(arrays.attention[layer, sample, :n, :n])
        for i in range(n):
            for expert in arrays.topk[layer, sample, i]:
                gate = float(arrays.gates[layer, sample, i, expert])
                for j in range(n):
                    value = gate * float(a[i, j])
                    distances[expert] += value * abs(i - j)
                    flow[expert, i * REGIONS // n, j * REGIONS // n] += value
                    observed[expert, 0] += value if abs(i - j) <= BAND else 0
                    observed[expert, 1] += value if abs(i - j) > half else 0
                    observed[expert, 2] += value if i < q and j < q else 0
                    observed[expert, 3] += value if i >= c and j >= c else 0
                    observed[expert, 4] += value if i < q and j >= c else 0
                    observed[expert, 5] += value if i >= c and j < q else 0
    return distances
