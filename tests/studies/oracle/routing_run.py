"""What a routing dump holds: tokens of one component, and what each of its layers did with them."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Layer:
    num_experts: int
    selected: np.ndarray  # [T, K]; -1 = no expert
    weights: np.ndarray  # [T, K]
    logits: np.ndarray | None = None  # [T, E]
    scores: np.ndarray | None = None  # [T, E]

    @property
    def top_k(self) -> int:
        return self.selected.shape[1]

    def ranked_ids(self, token: int) -> list[int]:
        """The ids that count (experts, weight not 0), by descending weight, ties to the lower id."""
        pairs = zip(self.selected[token].tolist(), self.weights[token].tolist(), strict=True)
        chosen = [(-weight, expert) for expert, weight in pairs if weight != 0 and 0 <= expert < self.num_experts]
        return [expert for _, expert in sorted(chosen)]

    def weight_of(self, token: int) -> np.ndarray:
        """[E], slots of one expert added"""
        out = np.zeros(self.num_experts)
        for expert, weight in zip(self.selected[token].tolist(), self.weights[token].tolist(), strict=True):
            if 0 <= expert < self.num_experts:
                out[expert] += weight
        return out

    def counts(self, tokens=None) -> list[int]:
        """c [E]: selections with weight 0 do not count."""
        out = [0] * self.num_experts
        for token in range(len(self.selected)) if tokens is None else tokens:
            for expert in self.ranked_ids(token):
                out[expert] += 1
        return out


@dataclass
class RoutingRun:
    sample: np.ndarray  # [T]; -1 = unknown
    position: np.ndarray
    token_id: np.ndarray  # -1 = unknown
    phase: np.ndarray  # 0 prompt, 1 generation
    forward: np.ndarray
    layers: dict[str, Layer]
    component: str = "language_model"
    docs: list[dict] = field(default_factory=list)  # of sample i

    @property
    def num_tokens(self) -> int:
        return len(self.sample)

    def tokens_of(self, sample: int) -> list[int]:
        """In order of forward, then of position: a step of generation follows what was before it."""
        tokens = [t for t in range(self.num_tokens) if self.sample[t] == sample]
        return sorted(tokens, key=lambda t: (int(self.forward[t]), int(self.position[t])))

    def known_samples(self) -> list[int]:
        return sorted({int(s) for s in self.sample if s >= 0})

    def softmax(self, layer: str, token: int) -> np.ndarray:
        logits = np.asarray(self.layers[layer].logits[token], np.float64)
        return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def percentile(values: list[float], share: float) -> float | None:
    """Linear interpolation between the sorted values; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def max_over_mean(loads: list[int]) -> float | None:
    return max(loads) / (sum(loads) / len(loads)) if sum(loads) else None
