"""Random arrays as the notebook's, as values and as files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from oracle.notebook_arrays import NotebookArrays

FILES = {"gates": "gate_scores", "topk": "topk_idx", "tokens": "token_types", "attention": "attn_weights"}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@dataclass
class Shape:
    """Of random arrays. `lengths` are drawn where they are not given."""

    layers: int = 3
    samples: int = 5
    width: int = 13
    experts: int = 5
    top_k: int = 2
    lengths: tuple[int, ...] | None = None
    attention: bool = True
    duplicates: float = 0.0  # share of tokens whose second slot repeats the first
    out_of_range: float = 0.0  # share of slots without an expert
    sigmoid: bool = False  # gates that do not sum to 1, some of them exactly 0
    unscaled_attention: bool = False  # rows that do not sum to 1, some of them to 0


def random_arrays(seed: int, shape: Shape, dtype="float32", id_dtype="int64") -> dict[str, np.ndarray]:
    """As they would be on the disk. Padding is at the end and looks like the rest, but for the token ids."""
    random = np.random.default_rng(seed)
    count, samples, width, experts = shape.layers, shape.samples, shape.width, shape.experts
    lengths = shape.lengths or tuple(random.integers(1, width + 1, samples).tolist())
    gates = softmax(1.5 * random.standard_normal((count, samples, width, experts))).astype(dtype)
    if shape.sigmoid:
        gates = np.where(random.random(gates.shape) < 0.3, 0, gates * experts / 2).astype(dtype)
    topk = np.argsort(-gates, axis=-1, kind="stable")[..., : shape.top_k].astype(id_dtype)
    if shape.duplicates and shape.top_k > 1:
        again = random.random(topk.shape[:3]) < shape.duplicates
        topk[..., 1] = np.where(again, topk[..., 0], topk[..., 1])
    if shape.out_of_range:
        lost = random.random(topk.shape) < shape.out_of_range
        topk = np.where(lost, random.choice([-1, experts, experts + 7], topk.shape), topk).astype(id_dtype)
    tokens = random.integers(0, 20, (samples, width))
    arrays = {"gates": gates, "topk": topk}
    logits = random.standard_normal((count, samples, width, width))
    for sample, n in enumerate(lengths):
        tokens[sample, n:] = -1
        logits[:, sample, :n, n:] = -np.inf  # rows of padding keep their ordinary numbers
    arrays["tokens"] = tokens.astype(id_dtype)
    if shape.attention:
        weights = softmax(logits)
        if shape.unscaled_attention:
            weights *= random.choice([0, 0.5, 1.25], (*weights.shape[:3], 1))
        arrays["attention"] = weights.astype(dtype)
    return arrays


def as_oracle(arrays: dict[str, np.ndarray], topk_gates: bool = False) -> NotebookArrays:
    return NotebookArrays(**arrays, topk_gates=topk_gates)


def save_arrays(folder: Path, arrays: dict[str, np.ndarray], fortran: bool = False) -> Path:
    folder.mkdir(parents=True)
    for role, array in arrays.items():
        np.save(folder / f"{FILES[role]}.npy", np.asfortranarray(array) if fortran else np.ascontiguousarray(array))
    return folder


def with_other_padding(arrays: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The same valid tokens beside other numbers in the padding: gates, ids and attention of padded queries."""
    other = random_arrays(seed, shape_of(arrays, lengths=None), arrays["gates"].dtype, arrays["topk"].dtype)
    padded = arrays["tokens"] == -1
    out = {role: array.copy() for role, array in arrays.items()}
    for role in ("gates", "topk", "attention"):
        if role in out:
            out[role][:, padded] = other[role][:, padded]
    return out


def shape_of(arrays: dict[str, np.ndarray], lengths) -> Shape:
    layers, samples, width, experts = arrays["gates"].shape
    return Shape(layers, samples, width, experts, arrays["topk"].shape[3], lengths, "attention" in arrays)


def with_more_padding(arrays: dict[str, np.ndarray], more: int) -> dict[str, np.ndarray]:
    """`more` columns of padding at the end."""
    out = {}
    for role, array in arrays.items():
        widths = [(0, 0)] * array.ndim
        for axis in {"gates": [2], "topk": [2], "tokens": [1], "attention": [2, 3]}[role]:
            widths[axis] = (0, more)
        out[role] = np.pad(array, widths, constant_values=-1 if role == "tokens" else 0)
    return out


def chosen_samples(arrays: dict[str, np.ndarray], order: list[int]) -> dict[str, np.ndarray]:
    return {role: array[order] if role == "tokens" else array[:, order] for role, array in arrays.items()}
