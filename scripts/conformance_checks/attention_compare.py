"""Compares what runs recorded of attention with the oracle and with each other."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy

from . import attention_capture
from .attention_capture import CapturedAttention
from .attention_exceptions import Exceptions
from .attention_oracle import OracleAttention, has_unknown_sink, reference_call
from .attention_pairs import expected_pairs
from .attention_reference import (
    AttentionRows,
    concatenate,
    measure,
    row_table,
    summarise,
    summarise_experts,
    summarise_samples,
)
from .compare import match_calls
from .zoo import Method, Model, OracleCall


@dataclasses.dataclass
class AttentionComparison:
    expected: int = 0
    found: int = 0
    listed: int = 0  # calls or hooks that the table of exceptions names
    worst_probability: float = 0.0
    worst_value: float = 0.0  # of the summary, the rows and the log, against the reference
    worst_mode: float = 0.0  # stats against full
    experts: int = 0  # routers whose experts' sums were compared
    problems: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Runs:
    """The runs of one method."""

    full: pathlib.Path
    stats: pathlib.Path


def compare_attention(
    result: AttentionComparison,
    model: Model,
    method: Method,
    hooks: list[dict],
    runs: Runs,
    routed: list[tuple[OracleCall, str]],  # the oracle's router calls, each with the name of the hook that captured it
    exceptions: Exceptions,
    tolerance: float,
) -> None:
    """Adds the comparison of one method's runs to `result`. `hooks` are the method's, of both kinds."""
    result.expected += len(method.attention)
    all_hooks, hooks = hooks, [hook for hook in hooks if hook["kind"] == "attention"]
    captured = attention_capture.read_matrices(runs.full, hooks)
    silent = [hook["name"] for hook in hooks if not any(call.hook is hook for call in captured)]
    if silent and not model.has_control_flow:
        result.problems.append(f"no attention of {', '.join(silent)}")
    pairs, missing, extra = match_calls(model, method.attention, captured)
    _report(result, "attention not found", [call.key for call in missing], "not-found", exceptions)
    _report(result, "no attention", [call.hook["name"] for call in extra], "no-oracle", exceptions)
    inputs = method.inputs()
    for oracle, call in pairs:
        result.found += 1
        _compare_matrices(result, oracle, call, inputs, tolerance)
    full, stats = attention_capture.read_summary(runs.full), attention_capture.read_summary(runs.stats)
    worst = compare_trees(result.problems, "stats and full", stats, full, tolerance)
    result.worst_mode = max(result.worst_mode, worst)
    _compare_pairs(result, all_hooks, pairs, routed, stats)
    logs = attention_capture.read_log(runs.stats)
    for hook in hooks:
        calls = [oracle for oracle, call in pairs if call.hook is hook]
        if not calls or exceptions.covers("no-values", hook["name"]):
            continue
        entry = stats.get(hook["component"], {}).get(hook["layer"])
        if entry is None:
            result.problems.append(f"{hook['name']}: summary.json has no attention of it")
            continue
        _compare_values(result, hook, calls, inputs, entry, runs.stats, logs, routed, tolerance)


def _compare_pairs(result, hooks: list[dict], pairs, routed, summary: dict) -> None:
    """Every router's sums of experts are with the attention that the rule names."""
    tokens: dict[str, list[int]] = {}
    for oracle, call in pairs:
        tokens.setdefault(call.hook["name"], []).append(oracle.mean.shape[0] * oracle.mean.shape[1])
    for oracle, name in routed:
        tokens.setdefault(name, []).append(len(oracle.ids))
    paired = {
        sums["router"]: entry["name"]
        for layers in summary.values()
        for entry in layers.values()
        for sums in expert_sums(entry)
    }
    for router, attention in expected_pairs(hooks, tokens).items():
        if paired.get(router) != attention:
            result.problems.append(f"{router} goes with {paired.get(router)}, expected {attention}")


def expert_sums(entry: dict) -> list[dict]:
    """The sums of the experts of each router that goes with a layer."""
    experts = entry.get("experts") or []
    return experts if isinstance(experts, list) else [experts]


def _report(result: AttentionComparison, what: str, places: list[str], kind: str, exceptions: Exceptions) -> None:
    unlisted = [place for place in places if not exceptions.covers(kind, place)]
    result.listed += len(places) - len(unlisted)
    if unlisted:
        result.problems.append(f"{what}: {', '.join(unlisted)}")


def _compare_matrices(result, oracle: OracleAttention, captured: CapturedAttention, inputs, tolerance: float) -> None:
    """The head means of valid queries and keys."""
    call = reference_call(oracle, inputs, captured.hook["component"])
    if sorted(captured.samples) != list(range(len(oracle.mean))):
        result.problems.append(
            f"{oracle.key}: samples {sorted(captured.samples)}, the oracle has {len(oracle.mean)} sequences"
        )
        return
    for sample, parts in captured.samples.items():
        expected = oracle.mean[sample][call.query_position[sample] >= 0]
        if not call.has_other_keys:
            expected = expected[:, call.key_position[sample] >= 0]
        place = 0
        for first_query, matrix in parts:
            if first_query != place:
                result.problems.append(f"{oracle.key}: sample {sample} has no query {place}")
                return
            place += len(matrix)
        widths = {matrix.shape[1] for _, matrix in parts}
        actual = numpy.concatenate([matrix for _, matrix in parts]) if len(widths) == 1 else parts[0][1]
        if call.has_other_keys:  # behind the tokens stand keys that are none, which moetap leaves out
            expected = expected[:, : actual.shape[1]]
        if actual.shape != expected.shape:
            result.problems.append(f"{oracle.key}: sample {sample} is {actual.shape}, oracle {expected.shape}")
            return
        difference = numpy.nan_to_num(numpy.abs(actual - expected), nan=numpy.inf)
        worst = float(difference.max(initial=0.0))
        if worst > tolerance:
            row, key = numpy.unravel_index(difference.argmax(), actual.shape)
            result.problems.append(
                f"{oracle.key}: probabilities differ by {worst:.2g}, tolerance {tolerance:g}, most in sample {sample}, "
                f"query {row}, key {key}: {actual[row, key]:.6g}, oracle {expected[row, key]:.6g}"
            )
            return
        result.worst_probability = max(result.worst_probability, worst)


def _compare_values(result, hook, calls, inputs, entry, run, logs, routed, tolerance) -> None:
    references = [reference_call(oracle, inputs, hook["component"]) for oracle in calls]
    measured = [measure(call) for call in references]
    rows = concatenate(measured)
    expected = summarise(rows)
    sink = any(has_unknown_sink(call) for call in references)
    if sink:  # the heads' shares are not known
        expected = {name: expected[name] for name in ("rows", "empty_rows", "key_mass")}
    where = f"{hook['name']}: summary"
    if missing := sorted(expected.keys() - entry.keys()):
        result.problems.append(f"{where} lacks {', '.join(missing)}")
    _compare_known(result, where, entry, expected, tolerance)
    if hook.get("num_key_heads") not in (None, entry.get("num_key_heads")):
        result.problems.append(
            f"{where} has {entry['num_key_heads']} heads of keys, the hook has {hook['num_key_heads']}"
        )
    heads = expected.get("head_entropy")
    if heads is not None and len(heads) != entry.get("num_heads"):
        result.problems.append(f"{where} has {entry.get('num_heads')} heads, oracle {len(heads)}")
    if sink:
        return
    _compare_experts(result, hook, calls, measured, entry, routed, tolerance)
    if len(calls) == 1:
        _compare_rows(result, hook, rows, run, tolerance)
        _compare_log(result, hook, rows, logs, tolerance)


def _compare_known(result, where: str, actual: dict, expected: dict, tolerance: float) -> None:
    """What both have; the heads' means cannot tell all that the program knows."""
    both = [name for name in expected if name in actual]
    trees = ({name: tree[name] for name in both} for tree in (actual, expected))
    result.worst_value = max(result.worst_value, compare_trees(result.problems, where, *trees, tolerance))


def _compare_experts(result, hook, calls, measured: list[AttentionRows], entry, routed, tolerance: float) -> None:
    for sums in expert_sums(entry):
        where = f"{hook['name']}: experts of {sums['router']}"
        routers = [oracle for oracle, name in routed if name == sums["router"] and oracle.weights is not None]
        if not routers:
            continue
        sizes = [call.mean.shape[0] * call.mean.shape[1] for call in calls]
        if [len(router.ids) for router in routers] != sizes:
            tokens = [len(router.ids) for router in routers]
            result.problems.append(f"{where}: the router's calls have {tokens} tokens, those of attention {sizes}")
            continue
        places = [rows.sample * call.mean.shape[1] + rows.place for rows, call in zip(measured, calls, strict=True)]
        ids, weights = (
            numpy.concatenate([getattr(router, name)[at] for router, at in zip(routers, places, strict=True)])
            for name in ("ids", "weights")
        )
        expected = summarise_experts(concatenate(measured), ids, weights, len(sums["gate_mass"]))
        if missing := sorted(expected.keys() - sums.keys()):
            result.problems.append(f"{where} lack {', '.join(missing)}")
        _compare_known(result, where, sums, expected, tolerance)
        result.experts += 1


def _compare_rows(result, hook, rows: AttentionRows, run: pathlib.Path, tolerance: float) -> None:
    """The column of the dump, row by row. It is there where the layer has rows in the dump."""
    recorded = attention_capture.read_rows(run, hook["component"], hook["layer"])
    if recorded is None:
        return
    names, expected = row_table(rows)
    absent = [name for name in names if name not in recorded.columns]
    if absent:
        result.problems.append(f"{hook['name']}: attention_columns lack {', '.join(absent)}")
        return
    line_of = {(sample, place): line for line, (sample, place) in enumerate(zip(rows.sample, rows.place, strict=True))}
    lines = [line_of.get(key) for key in zip(recorded.sample, recorded.position, strict=True)]
    if None in lines and len(rows.place):  # of a tower: the position is the row's place in the call
        length = int(max(rows.place)) + 1
        lines = [line_of.get((s, p - s * length)) for s, p in zip(recorded.sample, recorded.position, strict=True)]
    if None in lines or len(set(lines)) != len(rows.sample):
        result.problems.append(f"{hook['name']}: the dump's {len(lines)} rows are not the oracle's {len(line_of)}")
        return
    actual = recorded.values[:, [recorded.columns.index(name) for name in names]]
    for column, name in enumerate(names):
        where = f"{hook['name']}: column {name}"
        values = (actual[:, column].tolist(), expected[lines, column].tolist())
        result.worst_value = max(result.worst_value, compare_trees(result.problems, where, *values, tolerance))


def _compare_log(result, hook, rows: AttentionRows, logs: list[dict], tolerance: float) -> None:
    samples = summarise_samples(rows)
    if len(samples) != len(logs):
        return  # the samples of the log are not the layer's sequences
    for number, (expected, entry) in enumerate(zip(samples, logs, strict=True)):
        actual = entry.get(hook["component"], {}).get(hook["layer"])
        where = f"{hook['name']}: log entry {number}"
        if actual is None or expected.keys() - actual.keys():
            result.problems.append(f"{where} lacks {', '.join(expected.keys() - (actual or {}).keys())}")
            return
        _compare_known(result, where, actual, expected, tolerance)


def compare_trees(problems: list[str], where: str, actual, expected, tolerance: float) -> float:
    """The largest difference of two JSON values, absolute below 1 and relative above; the first place of one beyond the
    tolerance is a problem."""
    differences = list(_differences("", actual, expected))
    wrong = [(place, a, b) for place, a, b, difference in differences if not difference <= tolerance]
    if wrong:
        place, a, b = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        problems.append(f"{where} {place.strip('.')}: {_text(a)}, expected {_text(b)}{more}")
    return max((difference for *_, difference in differences if math.isfinite(difference)), default=0.0)


def _differences(place: str, actual, expected):
    """(place, actual, expected, difference) of each leaf; values of different shapes differ infinitely."""
    if isinstance(actual, dict) and isinstance(expected, dict) and actual.keys() == expected.keys():
        for name in expected:
            yield from _differences(f"{place}.{name}", actual[name], expected[name])
    elif isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        for number, values in enumerate(zip(actual, expected, strict=True)):
            yield from _differences(f"{place}[{number}]", *values)
    elif isinstance(actual, (int, float)) and isinstance(expected, (int, float)):
        difference = abs(actual - expected) / max(1.0, abs(expected))
        yield place, actual, expected, 0.0 if actual == expected else difference
    else:
        yield place, actual, expected, 0.0 if actual == expected else math.inf


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
