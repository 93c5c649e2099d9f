"""Writes a finished run with a routing dump of any size, for studies of routing.

    benchmarks/make_dump.py RUN_DIR --tokens 1000000 --layers 48 --experts 128 --top-k 8 [--ids]

Samples are a prompt of 256 tokens, one forward, and 256 generated tokens, a forward each. Experts are skewed, and a
token keeps some of the experts of the token before it, so that caches have something to hit. --ids leaves the weights
out. Shards are written one after the other: memory does not grow with tokens.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PROMPT, GENERATED = 256, 256
SHARD_TOKENS = 1 << 17
COMPONENT = "language_model"


def labels(first: int, n: int) -> dict[str, np.ndarray]:
    token = np.arange(first, first + n, dtype=np.int64)
    length = PROMPT + GENERATED
    sample, place = token // length, token % length
    generated = place >= PROMPT
    forward = sample * (GENERATED + 1) + np.where(generated, place - PROMPT + 1, 0)
    return {
        "sample": sample,
        "position": np.where(generated, 0, place).astype(np.int32),
        "token_id": ((token * 2654435761) % 50021).astype(np.int32),
        "phase": generated.astype(np.uint8),
        "forward": forward,
    }


def routes(n: int, experts: int, top_k: int, random: np.random.Generator) -> np.ndarray:
    """Distinct ids [n, K]: the K largest of noise, which changes slowly from token to token, and popularity."""
    popular = random.normal(0, 0.7, experts).astype(np.float32)
    noise = random.standard_normal((n, experts), dtype=np.float32)
    noise[1:] += 0.7 * noise[:-1]
    noise += popular
    best = np.argpartition(-noise, top_k, axis=1)[:, :top_k]
    order = np.argsort(-np.take_along_axis(noise, best, 1), axis=1)
    return np.take_along_axis(best, order, 1).astype(np.int16)


def write_about(run: Path, sizes: argparse.Namespace) -> None:
    about = run / "moetap"
    names = [str(layer) for layer in range(sizes.layers)]
    shared = {"num_experts": sizes.experts, "top_k": sizes.top_k, "scoring": "softmax"}
    hooks = [
        {"id": i, "layer": name, "name": f"model.layers.{name}.gate", "kind": "router", "method": "forward"}
        | {"component": COMPONENT, "reported": True, "run_layer": name}
        | shared
        for i, name in enumerate(names)
    ]
    counts = {"tokens": sizes.tokens, "selected_count": [1] * sizes.experts, "top1_count": [1] * sizes.experts}
    summary = {name: shared | counts for name in names}
    manifest = {"schema_version": 1, "model": "made", "config": {"dump": "ids" if sizes.ids else "topk"}}
    manifest |= {"task": "log_metrics", "rank": {"rank": 0, "world_size": 1}, "hooks": hooks, "counters": {}}
    (about / "manifest.json").write_text(json.dumps(manifest))
    written = {"schema_version": 1, "task": "log_metrics", "forwards": 1, "components": {COMPONENT: summary}}
    (about / "summary.json").write_text(json.dumps(written))
    (run / "rank0_metric_eval_done.txt").write_text("rank 0 eval done")


def write(run: Path, sizes: argparse.Namespace) -> None:
    folder = run / "moetap/dump/rank0"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    block = routes(min(SHARD_TOKENS, sizes.tokens) + 4096, sizes.experts, sizes.top_k, random)
    gates = -np.sort(-random.dirichlet(np.ones(sizes.top_k), len(block)).astype(np.float32), axis=1)
    for number, first in enumerate(range(0, sizes.tokens, SHARD_TOKENS)):
        n = min(SHARD_TOKENS, sizes.tokens - first)
        columns = labels(first, n)
        for layer in range(sizes.layers):
            begin = int(random.integers(0, 4096))
            rotated = (block[begin : begin + n] + 7 * layer + number) % sizes.experts
            columns[f"{layer}.selected"] = rotated.astype(np.int16)
            if not sizes.ids:
                columns[f"{layer}.weights"] = gates[begin : begin + n]
        about = {"schema_version": "1", "rank": "0", "first_row": str(first), "hooks": "{}"}
        save_file(columns, folder / f"{COMPONENT}-{number:06}.safetensors", about)
    write_about(run, sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--ids", action="store_true", help="ids without weights")
    options = parser.parse_args()
    if not 0 < options.top_k < options.experts <= 1 << 15:
        parser.error("--top-k must be below --experts, and those at most 32768")
    write(options.run, options)


if __name__ == "__main__":
    main()
