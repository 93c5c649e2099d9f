"""`matching`: which expert of A is which of B. All assignments are tried, so E is small.

Readings: a usage profile has, for each token that both runs have, 1 where it selected the expert; an expert that was
never selected has no cosine: it counts as 0 in the assignment and is undefined in the table.
"""

from itertools import permutations

import numpy as np

from .alignment import joined
from .notebook_arrays import table
from .routing_run import RoutingRun


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            norm = np.sqrt((x * x).sum() * (y * y).sum())
            out[i, j] = (x * y).sum() / norm if norm > 0 else 0.0
    return out


def best_assignment(similarity: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """(sum of similarities, partner of each expert of A); one of the best where there are several."""
    n = len(similarity)
    return max((sum(similarity[i, p[i]] for i in range(n)), p) for p in permutations(range(n)))


def profiles(a: RoutingRun, b: RoutingRun, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """[E, shared tokens] of each."""
    pairs = joined(a, b)
    out = []
    for run, rows in ((a, [i for i, _ in pairs]), (b, [j for _, j in pairs])):
        profile = np.zeros((run.layers[layer].num_experts, len(rows)))
        for place, row in enumerate(rows):
            profile[run.layers[layer].ranked_ids(row), place] = 1
        out.append(profile)
    return out[0], out[1]


def matching(a: RoutingRun, b: RoutingRun) -> dict:
    rows = []
    for layer in a.layers:
        profile_a, profile_b = profiles(a, b, layer)
        similarity = cosines(profile_a, profile_b)
        _, partner = best_assignment(similarity)
        for expert, other in enumerate(partner):
            defined = [profile_a[expert].any() and profile_b[x].any() for x in (other, expert)]
            values = [similarity[expert, x] if d else None for x, d in zip((other, expert), defined, strict=True)]
            rows.append((a.component, layer, expert, other, *values))
    columns = ["component", "layer", "expert_a", "expert_b", "similarity", "identity_similarity"]
    return {"matching": table(columns, rows)}
