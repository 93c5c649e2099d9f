"""Writes the arrays that the notebook's studies read, of any size, with a structure that they must find.

    benchmarks/make_arrays.py FOLDER --layers 4 --samples 1149 --length 300 --experts 30 --top-k 3

Planted: attention is local, and how far a token looks follows from its first expert; residues prefer experts; experts
of even number prefer the first half of a sequence; the first expert of each layer is used most. Samples end with
padding (token -1), whose queries hold ordinary numbers. Attention is written sample by sample: memory does not grow
with it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RESIDUES = 20


@dataclass(frozen=True)
class Sizes:
    layers: int
    samples: int
    length: int
    experts: int
    top_k: int
    shortest: int
    seed: int = 0


def lengths(sizes: Sizes, random: np.random.Generator) -> np.ndarray:
    """n_b [B], of which the mean is about 0.6 of the padded length."""
    spread = sizes.length - sizes.shortest
    return sizes.shortest + np.round(spread * random.beta(1.5, 1.5, sizes.samples)).astype(np.int64)


def token_types(sizes: Sizes, n: np.ndarray, random: np.random.Generator) -> np.ndarray:
    types = random.integers(0, RESIDUES, (sizes.samples, sizes.length))
    types[np.arange(sizes.length) >= n[:, None]] = -1
    return types


def gates(sizes: Sizes, types: np.ndarray, n: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Softmax over all experts [B, S, E], float32."""
    logits = random.normal(0, 1, (sizes.samples, sizes.length, sizes.experts)).astype(np.float32)
    preference = random.normal(0, 1, (RESIDUES + 1, sizes.experts)).astype(np.float32)
    logits += preference[types]
    is_first_half = np.arange(sizes.length) < n[:, None] // 2
    logits[..., ::2] += is_first_half[..., None]
    logits[..., 0] += 1.5
    logits -= logits.max(axis=-1, keepdims=True)
    scores = np.exp(logits)
    return scores / scores.sum(axis=-1, keepdims=True)


def attention(sizes: Sizes, n: int, first_expert: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[S, S] float32 of one sample: rows of valid queries sum to 1 over the n valid keys, which have all mass."""
    place = np.arange(sizes.length, dtype=np.float32)
    reach = 2 + 40 * (first_expert / sizes.experts).astype(np.float32)
    scores = np.exp(-np.abs(place[:, None] - place) / reach[:, None])
    scores += random.random(scores.shape, dtype=np.float32) * 0.02
    scores[:, n:] = 0
    return scores / scores.sum(axis=1, keepdims=True)


def write(folder: Path, sizes: Sizes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(sizes.seed)
    n = lengths(sizes, random)
    types = token_types(sizes, n, random)
    np.save(folder / "token_types.npy", types)
    rows = (sizes.layers, sizes.samples, sizes.length)
    create = np.lib.format.open_memmap
    scores = create(folder / "gate_scores.npy", "w+", np.float32, (*rows, sizes.experts))
    chosen = create(folder / "topk_idx.npy", "w+", np.int64, (*rows, sizes.top_k))
    maps = create(folder / "attn_weights.npy", "w+", np.float32, (*rows, sizes.length))
    for layer in range(sizes.layers):
        scores[layer] = gates(sizes, types, n, random)
        chosen[layer] = np.argsort(-scores[layer], axis=-1, kind="stable")[..., : sizes.top_k]
        for sample in range(sizes.samples):
            maps[layer, sample] = attention(sizes, max(1, n[sample]), chosen[layer, sample, :, 0], random)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1149)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--experts", type=int, default=30)
    parser.add_argument("--top-k", type=int, default=3)
    parser.add_argument("--shortest", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 0 < options.top_k <= options.experts:
        parser.error("--top-k must be between 1 and --experts")
    if not 0 <= options.shortest <= options.length:
        parser.error("--shortest must not exceed --length")
    folder = options.folder
    write(folder, Sizes(**{name: value for name, value in vars(options).items() if name != "folder"}))


if __name__ == "__main__":
    main()
