"""Matches captured calls with the oracle's and compares them."""

from __future__ import annotations

import dataclasses

import numpy
import torch

from .capture import CapturedCall
from .zoo import Method, Model, OracleCall

TEXT_COMPONENTS = {"language_model", "encoder", "decoder"}


@dataclasses.dataclass
class Comparison:
    expected: int = 0
    found: int = 0
    skipped: int = 0  # not captured, and allowed to be with a reason
    worst_weight: float = 0.0  # largest difference, as a share of the tolerance's scale
    worst_logit: float = 0.0
    without_logits: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def compare_method(
    result: Comparison, model: Model, method: Method, hooks: list[dict], calls: list[CapturedCall], tolerance: float
) -> list[tuple[OracleCall, str]]:
    """Adds the comparison of one method's run to `result`. `hooks` are the method's. Returns the oracle's calls that
    were captured, each with the name of its hook."""
    result.expected += len(method.calls)
    silent = [hook["name"] for hook in hooks if not any(call.hook is hook for call in calls)]
    if silent and not model.has_control_flow:
        result.problems.append(f"no rows for {', '.join(silent)}")
    pairs, missing, extra = match_calls(model, method.calls, calls)
    if missing and model.may_be_skipped:
        result.skipped += len(missing)
    elif missing:
        result.problems.append("not found: " + ", ".join(call.key for call in missing))
    if extra:
        result.problems.append("not a router: " + ", ".join(call.hook["name"] for call in extra))
    shapes = {name: tuple(value.shape) for name, value in method.inputs().items() if isinstance(value, torch.Tensor)}
    for oracle, captured in pairs:
        result.found += 1
        _compare_call(result, oracle, captured, _valid_tokens(method, oracle, captured), shapes, tolerance)
    return [(oracle, captured.hook["name"]) for oracle, captured in pairs]


def match_calls(model: Model, expected: list[OracleCall], captured: list[CapturedCall]):
    """Pairs of calls, expected ones without a capture, captures without an expected one.

    By path and, within a path, by order; frozen models have no paths: by order alone. A hook is named for the module
    that owns the projection, an oracle for the routing module: one path contains the other."""
    if not model.has_paths:
        count = min(len(expected), len(captured))
        return list(zip(expected, captured, strict=False)), expected[count:], captured[count:]
    left = list(captured)
    pairs, missing = [], []
    for call in expected:
        candidates = [c for c in left if _same_place(call.path, c.hook["name"].split("#")[0])]
        if not candidates:
            missing.append(call)
            continue
        pairs.append((call, candidates[0]))
        left = [c for c in left if c is not candidates[0]]
    return pairs, missing, left


def _same_place(first: str, second: str) -> bool:
    return first == second or first.startswith(second + ".") or second.startswith(first + ".")


def _valid_tokens(method: Method, oracle: OracleCall, captured: CapturedCall) -> numpy.ndarray:
    """bool [T]: which of the oracle's tokens must be rows. Text masks apply to text routers only."""
    tokens = len(oracle.ids)
    if oracle.tokens:
        valid = oracle.tokens.valid
        return numpy.ones(tokens, bool) if valid is None else valid.astype(bool)
    component = captured.hook["component"]
    name = "decoder_attention_mask" if component == "decoder" else "attention_mask"
    mask = method.inputs().get(name)
    if component in TEXT_COMPONENTS and mask is not None and mask.numel() == tokens:
        return mask.reshape(-1).bool().numpy()
    return numpy.ones(tokens, bool)


def _compare_call(result, oracle: OracleCall, captured: CapturedCall, valid, shapes, tolerance: float) -> None:
    tokens = len(oracle.ids)
    wanted = numpy.flatnonzero(valid)
    rows = numpy.arange(len(captured.selected)) if oracle.tokens else _token_of_row(captured, tokens, shapes)
    if oracle.tokens and len(rows) == len(wanted):
        rows = wanted
        _check_tokens(result, oracle, captured, rows)
    if len(rows) != len(wanted) or not numpy.array_equal(numpy.sort(rows), wanted):
        result.problems.append(f"{oracle.key}: rows are other tokens: {len(rows)} rows, {len(wanted)} valid tokens")
        return
    ids, weights = sort_slots(captured.selected.numpy(), None if captured.weights is None else captured.weights.numpy())
    expected_ids, expected_weights = sort_slots(
        oracle.ids[rows], None if oracle.weights is None else oracle.weights[rows]
    )
    if oracle.as_sets:
        ids, weights = without_unweighted(ids, weights)
        expected_ids, expected_weights = without_unweighted(expected_ids, expected_weights)
    width = max(ids.shape[1], expected_ids.shape[1])
    ids, weights = pad_slots(ids, weights, width)
    expected_ids, expected_weights = pad_slots(expected_ids, expected_weights, width)
    wrong = (ids != expected_ids).any(axis=1)
    if wrong.any():
        row = int(numpy.flatnonzero(wrong)[0])
        result.problems.append(
            f"{oracle.key}: ids differ in {int(wrong.sum())} of {len(rows)} tokens, "
            f"first in row {row}: {ids[row].tolist()}, oracle {expected_ids[row].tolist()}"
        )
    elif expected_weights is not None:
        result.worst_weight = max(
            result.worst_weight, _check(result, f"{oracle.key}: weights", weights, expected_weights, tolerance)
        )
    if oracle.logits is None:
        return
    if captured.logits is None:
        result.without_logits += 1
        return
    logits = captured.logits.float().numpy()
    expected_logits = oracle.logits[rows][:, : logits.shape[1]]  # joint shared experts may stay out
    result.worst_logit = max(
        result.worst_logit, _check(result, f"{oracle.key}: logits", logits, expected_logits, tolerance)
    )


def _check_tokens(result, oracle: OracleCall, captured: CapturedCall, rows: numpy.ndarray) -> None:
    for name in ("sample", "position"):
        expected = getattr(oracle.tokens, name)
        actual = getattr(captured, name).numpy()
        if expected is not None and not numpy.array_equal(actual, expected[rows]):
            row = int(numpy.flatnonzero(actual != expected[rows])[0])
            result.problems.append(f"{oracle.key}: {name} is {actual[row]} in row {row}, oracle {expected[rows][row]}")


def relative_difference(actual, expected) -> float:
    """The largest one; a value below its row's mean magnitude is compared relative to that mean."""
    if not actual.size:
        return 0.0
    scale = numpy.maximum(numpy.abs(expected), numpy.abs(expected).mean(axis=1, keepdims=True))
    with numpy.errstate(invalid="ignore"):
        difference = numpy.where(actual == expected, 0.0, numpy.abs(actual - expected) / numpy.maximum(scale, 1e-30))
    return float(difference.max()) if not numpy.isnan(difference).any() else float("inf")


def _check(result, what: str, actual, expected, tolerance: float) -> float:
    """The relative difference."""
    if actual is None or actual.shape != expected.shape:
        shape = None if actual is None else actual.shape
        result.problems.append(f"{what}: shape {shape}, oracle {expected.shape}")
        return float("inf")
    worst = relative_difference(actual, expected)
    if not worst <= tolerance:
        result.problems.append(f"{what} differ by {worst:.2g}, tolerance {tolerance:g}")
    return worst


def _token_of_row(captured: CapturedCall, tokens: int, shapes: dict) -> numpy.ndarray:
    """Index of each row's token in the oracle's order. Where the router saw the text's tokens, a row's position is the
    column of its sample, elsewhere its place in the call."""
    position = captured.position.numpy()
    component = captured.hook["component"]
    batch, length = shapes.get("decoder_input_ids" if component == "decoder" else "input_ids", (0, 0))
    if component not in TEXT_COMPONENTS or batch * length != tokens:
        return position
    return captured.sample.numpy() * length + position


def sort_slots(ids: numpy.ndarray, weights: numpy.ndarray | None):
    """Slots in order of their ids, unused ones (-1) last: an order in which two selections can be compared."""
    order = numpy.argsort(numpy.where(ids < 0, numpy.iinfo(numpy.int64).max, ids), axis=1, kind="stable")
    sorted_weights = None if weights is None else numpy.take_along_axis(weights, order, axis=1)
    return numpy.take_along_axis(ids, order, axis=1), sorted_weights


def without_unweighted(ids: numpy.ndarray, weights: numpy.ndarray | None):
    """The slots with a weight of zero emptied: where weights are dense, they are no selection."""
    return (ids, weights) if weights is None else sort_slots(numpy.where(weights == 0, -1, ids), weights)


def pad_slots(ids: numpy.ndarray, weights: numpy.ndarray | None, width: int):
    extra = ((0, 0), (0, width - ids.shape[1]))
    padded = None if weights is None else numpy.pad(weights, extra)
    return numpy.pad(ids, extra, constant_values=-1), padded


def bits_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """True if two tensors have the same type, shape and bits, NaN included."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.contiguous().view(torch.uint8).equal(second.contiguous().view(torch.uint8))
