"""Studies of layers from router probabilities: profiles, their correlations, periodic patterns, similarity of routers.

Readings: distances count MoE layers in order; probabilities are those the caller gives; a pattern without a pair at
its distance is undefined.
"""

import numpy as np

FARTHEST = 30
PERIODS = (12, 24, 36)


def profiles(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """avg_activation and var_activation (ddof = 1) [L, E] of [L, T, E]."""
    probabilities = np.asarray(probabilities, np.float64)
    return probabilities.mean(axis=1), probabilities.var(axis=1, ddof=1)


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def layer_correlations(average: np.ndarray, farthest: int = FARTHEST) -> dict[tuple[int, int], float | None]:
    """By pair of indices i < j, at most `farthest` apart."""
    count = len(average)
    return {
        (i, j): correlation(average[i], average[j])
        for i in range(count)
        for j in range(i + 1, min(i + farthest, count - 1) + 1)
    }


def periodic_patterns(average: np.ndarray) -> dict[int, tuple[float | None, float | None, str | None]]:
    """Distance -> (mean, standard deviation (ddof = 0), strength) of the correlations at that distance."""
    out = {}
    for period in PERIODS:
        found = [correlation(average[i], average[i + period]) for i in range(max(len(average) - period, 0))]
        values = [value for value in found if value is not None]
        if values:
            mean = float(np.mean(values))
            strength = "strong" if mean > 0.7 else "moderate" if mean > 0.4 else "weak"
            out[period] = (mean, float(np.std(values)), strength)
        else:
            out[period] = (None, None, None)
    return out


def router_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two routers' weights, as vectors."""
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def column_norms(weight: np.ndarray) -> np.ndarray:
    return np.sqrt((np.asarray(weight, np.float64) ** 2).sum(axis=0))
