"""What is recorded of attention, computed plainly from the probabilities: the reference for the program's numbers.

Float64 and NumPy only; nothing is shared with the program. Shapes: B sequences, H heads, Sq queries, Sk keys, N rows,
R regions. The values are defined in docs/attention.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np

BAND = 5  # positions to either side that count as diagonal
ENDS = 4  # keys that count as first, and as last
BINS = 16  # of relative position, in an expert's pattern
REGIONS_OF_PLANE = ("diagonal", "far", "n_terminal", "c_terminal", "n_to_c", "c_to_n")
# A row's values before those of the regions; `received` is behind them.
SCALARS = (
    *("entropy", "max_weight", "key_mass", "distance", "self", "diagonal", "diagonal_expected"),
    *("far", "far_expected", "first", "last"),
)
OF_HEADS = ("entropy", "max_weight")  # not linear in the probabilities: unknown where only their mean is


@dataclasses.dataclass
class AttentionCall:
    """One call of an attention layer. Position: rank among the valid tokens of the sample; -1: padding."""

    probabilities: np.ndarray  # [B, H, Sq, Sk], as the model used them
    query_position: np.ndarray  # int [B, Sq]
    key_position: np.ndarray  # int [B, Sk]
    self_attention: bool = True
    scores: np.ndarray | None = None  # [B, H, Sq, Sk], what the softmax read; a masked one is -inf
    heads_known: bool = True  # False: H is 1, and it is the mean of the heads
    has_other_keys: bool = False  # some keys are neither tokens nor padding
    num_regions: int = 5
    query_region: np.ndarray | None = None  # int [B, Sq]; None: parts of the sample
    key_region: np.ndarray | None = None  # int [B, Sk]
    sampled: np.ndarray | None = None  # bool [B, Sq]: the rows that are measured; None: all


@dataclasses.dataclass
class AttentionRows:
    """The rows of one call or of several, in the order sample, query."""

    values: dict[str, np.ndarray]  # SCALARS and `received` [N], `region_mass` [N, R]; what is unknown is left out
    heads: dict[str, np.ndarray]  # `entropy`, `distance`, `first` [N, H], `max_logit` [N, H] where scores are known
    plane: np.ndarray  # [N, 6]: mass in each region of the plane of queries and keys
    plane_expected: np.ndarray  # [N, 6]: share of the keys that lie in it
    bins: np.ndarray  # [N, 16]: mass by relative position of the key
    query_bin: np.ndarray  # int [N]
    sample: np.ndarray  # int [N]: sequence of the batch
    place: np.ndarray  # int [N]: index of the query within the call's sequence
    position: np.ndarray  # int [N]
    region: np.ndarray  # int [N], of the query
    num_keys: np.ndarray  # int [N]
    empty_rows: int
    num_regions: int


def parts(position: np.ndarray, count: np.ndarray, num_parts: int) -> np.ndarray:
    """The part of floor boundaries r * count // num_parts that holds each position; -1 for padding and beyond."""
    region = np.full(position.shape, -1)
    for part in range(num_parts):
        begin, end = part * count // num_parts, (part + 1) * count // num_parts
        region[(position >= begin) & (position < end)] = part
    return region


def measure(call: AttentionCall) -> AttentionRows:
    """The rows of the call. A query whose keys are all masked is no row and counts in `empty_rows`."""
    measured = [_measure_sequence(call, b) for b in range(len(call.probabilities))]
    return concatenate(measured)


def concatenate(rows: list[AttentionRows]) -> AttentionRows:
    """The rows of several calls of a layer as those of one. A head's values are the layer's: as many heads in all."""
    fields = {}
    for field in dataclasses.fields(AttentionRows):
        parts_of_field = [getattr(part, field.name) for part in rows]
        first = parts_of_field[0]
        if isinstance(first, dict):
            fields[field.name] = {name: np.concatenate([part[name] for part in parts_of_field]) for name in first}
        elif field.name == "empty_rows":
            fields[field.name] = sum(parts_of_field)
        elif field.name == "num_regions":
            fields[field.name] = first
        else:
            fields[field.name] = np.concatenate(parts_of_field)
    return AttentionRows(**fields)


def _measure_sequence(call: AttentionCall, b: int) -> AttentionRows:
    keys = np.flatnonzero(call.key_position[b] >= 0)
    n = len(keys)
    weights = np.nan_to_num(np.asarray(call.probabilities[b], np.float64)[:, :, keys], nan=0.0)  # [H, Sq, n]
    mass = weights.sum(axis=2)  # [H, Sq]
    valid = call.query_position[b] >= 0
    empty = valid & ~(mass > 0).any(axis=0)
    rows = valid & ~empty
    with np.errstate(invalid="ignore", divide="ignore"):
        normal = np.where(mass[:, :, None] > 0, weights / mass[:, :, None], 0.0)  # p
        logarithms = np.where(normal > 0, np.log(normal), 0.0)
    chosen = rows if call.sampled is None else rows & call.sampled[b]
    i = np.flatnonzero(chosen)

    position = call.query_position[b][i]
    key_position = call.key_position[b][keys]
    distance = np.abs(position[:, None] - key_position[None, :])  # [N, n]
    # A query's own sequence is that of the keys in self attention, else that of the queries.
    own = n if call.self_attention else int(call.query_position[b].max(initial=-1)) + 1
    region = _regions(call.query_region, b, i, position, own, call.num_regions)
    key_region = _regions(call.key_region, b, keys, key_position, n, call.num_regions)

    p = normal[:, i, :]  # [H, N, n]
    mean = p.mean(axis=0)  # [N, n]
    factor = rows.sum() / max(len(i), 1)
    entropy = -(p * logarithms[:, i, :]).sum(axis=2)  # [H, N]
    diagonal, far = distance <= BAND, distance > n // 2
    quarter, last_quarter = n // 4, 3 * n // 4
    own_quarter, own_last_quarter = own // 4, 3 * own // 4
    from_begin, from_end = (position < own_quarter)[:, None], (position >= own_last_quarter)[:, None]
    to_begin, to_end = (key_position < quarter)[None, :], (key_position >= last_quarter)[None, :]
    plane = np.stack(
        [diagonal, far, from_begin & to_begin, from_end & to_end, from_begin & to_end, from_end & to_begin], axis=2
    )  # [N, n, 6]
    observed = np.einsum("nk,nkr->nr", mean, plane)
    expected = plane.sum(axis=1) / max(n, 1)
    begin_end = {"first": key_position < ENDS, "last": key_position >= n - ENDS}

    values = {
        "key_mass": mass[:, i].mean(axis=0),
        "distance": (mean * distance).sum(axis=1),
        "diagonal": observed[:, 0],
        "diagonal_expected": expected[:, 0],
        "far": observed[:, 1],
        "far_expected": expected[:, 1],
        **{name: (mean * inside).sum(axis=1) for name, inside in begin_end.items()},
        "region_mass": np.stack([mean[:, key_region == r].sum(axis=1) for r in range(call.num_regions)], axis=1),
    }
    heads = {}
    if call.heads_known:
        values["entropy"], values["max_weight"] = entropy.mean(axis=0), p.max(axis=2, initial=0.0).mean(axis=0)
        heads = {
            "entropy": entropy.T,
            "distance": (p * distance).sum(axis=2).T,
            "first": (p * begin_end["first"]).sum(axis=2).T,
        }
        if call.scores is not None:
            heads["max_logit"] = np.asarray(call.scores[b], np.float64)[:, i][:, :, keys].max(axis=2).T
    if call.self_attention:
        values["self"] = (mean * (distance == 0)).sum(axis=1)
        received = mean.sum(axis=0) * factor
        values["received"] = np.array([received[key_position == at].sum() for at in position])
    bins = BINS * key_position // max(n, 1)
    return AttentionRows(
        values=values,
        heads=heads,
        plane=observed,
        plane_expected=expected,
        bins=np.stack([mean[:, bins == j].sum(axis=1) for j in range(BINS)], axis=1),
        query_bin=BINS * position // max(own, 1),
        sample=np.full(len(i), b),
        place=i,
        position=position,
        region=region,
        num_keys=np.full(len(i), n),
        empty_rows=int(empty.sum()),
        num_regions=call.num_regions,
    )


def _regions(given: np.ndarray | None, b: int, tokens, position, count: int, num_regions: int) -> np.ndarray:
    return parts(position, np.int64(count), num_regions) if given is None else given[b][tokens]


def row_table(rows: AttentionRows) -> tuple[list[str], np.ndarray]:
    """Names and values [N, V] of the columns of the dump, in their order."""
    names, columns = [], []
    for name in (*SCALARS, "region", "received"):
        if name == "region":
            names += [f"region.{r}" for r in range(rows.num_regions)]
            columns += list(rows.values["region_mass"].T)
        elif name in rows.values:
            names.append(name)
            columns.append(rows.values[name])
    return names, np.stack(columns, axis=1)


def summarise(rows: AttentionRows) -> dict:
    """The layer's entry of summary.json, without what names it. None stands for what is undefined."""
    summary = {"rows": len(rows.sample), "empty_rows": rows.empty_rows}
    for name, values in rows.values.items():
        summary[name] = _mean(values)
    for name, values in rows.heads.items():
        summary[f"head_{name}"] = values.max(axis=0).tolist() if name == "max_logit" else _mean(values)
    flow, _ = _flow(rows, np.ones(len(rows.sample)))
    summary["flow"] = flow.tolist()
    specialization = _ratios(rows.plane.sum(axis=0), rows.plane_expected.sum(axis=0))
    summary["specialization"] = dict(zip(REGIONS_OF_PLANE, specialization, strict=True))
    return summary


def standard_error(values: np.ndarray) -> float:
    """Of the mean of a sample of rows, from its own variance."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def summarise_samples(rows: AttentionRows) -> list[dict]:
    """The layer's values in the log, by sample."""
    names = ("entropy", "max_weight", "distance", "first", "region_mass")
    return [
        {name: _mean(rows.values[name][rows.sample == sample]) for name in names if name in rows.values}
        for sample in range(rows.sample.max(initial=-1) + 1)
    ]


def summarise_experts(rows: AttentionRows, ids: np.ndarray, weights: np.ndarray, num_experts: int) -> dict:
    """The layer's sums by expert. ids int [N, K], -1: no expert; weights [N, K] as applied; lines are the rows."""
    gates = np.zeros((num_experts, len(ids)))  # an expert in two slots of a token counts twice
    for slot in range(ids.shape[1]):
        named = np.flatnonzero((ids[:, slot] >= 0) & (ids[:, slot] < num_experts))
        np.add.at(gates, (ids[named, slot], named), weights[named, slot])
    total = gates.sum(axis=1)
    summary = {"gate_mass": total.tolist()}
    for name, source in (("mean_distance", "distance"), ("entropy", "entropy")):
        if source in rows.values:
            summary[name] = _ratios(gates @ rows.values[source], total)
    if "received" in rows.values:
        summary["received"] = (gates @ rows.values["received"]).tolist()
    flows = [_flow(rows, gate) for gate in gates]
    summary["flow"] = [flow.tolist() for flow, _ in flows]
    summary["flow_weight"] = [weight.tolist() for _, weight in flows]
    summary["specialization"] = [_ratios(gate @ rows.plane, gate @ rows.plane_expected) for gate in gates]
    summary["pattern"] = [_pattern(rows, gate).tolist() for gate in gates]
    return summary


def _flow(rows: AttentionRows, gate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[R, R] from the query's to the key's region, rows that sum to 1 or are 0, and the weight of each row [R]."""
    mass = np.stack([gate[rows.region == r] @ rows.values["region_mass"][rows.region == r] for r in _regions_of(rows)])
    weight = mass.sum(axis=1)
    return np.divide(mass, weight[:, None], out=np.zeros_like(mass), where=weight[:, None] != 0), weight


def _pattern(rows: AttentionRows, gate: np.ndarray) -> np.ndarray:
    """[16, 16] from the query's to the key's relative position, rows that sum to 1 or are 0."""
    inside = [rows.query_bin == i for i in range(BINS)]
    mass = np.stack([gate[line] @ rows.bins[line] for line in inside])
    weight = np.array([gate[line].sum() for line in inside])
    return np.divide(mass, weight[:, None], out=np.zeros_like(mass), where=weight[:, None] != 0)


def _regions_of(rows: AttentionRows) -> range:
    return range(rows.num_regions)


def _mean(values: np.ndarray):
    return values.mean(axis=0).tolist() if len(values) else None


def _ratios(numerators: np.ndarray, denominators: np.ndarray) -> list[float | None]:
    return [float(a / b) if b != 0 else None for a, b in zip(numerators, denominators, strict=True)]
