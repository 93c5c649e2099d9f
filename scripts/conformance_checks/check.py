"""The check of one model: inspect, run, compare with the oracle, compare outputs."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import tempfile

from . import capture
from .attention_compare import AttentionComparison, Runs, compare_attention
from .attention_exceptions import exceptions_of
from .compare import Comparison, compare_method, relative_difference
from .outputs import check_outputs, why_not_run
from .zoo import Model

ATTENTION_TOLERANCE = 1e-5  # fp32; absolute, of values above 1 relative
LARGEST_LOW_PRECISION_TOLERANCE = 0.1


@dataclasses.dataclass
class Settings:
    moetap: pathlib.Path
    library: pathlib.Path | None  # None: outputs are not compared
    tolerance: float  # fp32
    low_precision_tolerance: float
    skip_unrunnable: bool = False  # a model that PyTorch itself cannot run is no failure
    verify: bool = False  # prove the hooks by intervention
    attention: bool = False  # also check what is recorded of attention


@dataclasses.dataclass
class Verdict:
    model: Model
    comparison: Comparison
    passes: list[str]
    outputs_checked: bool
    attention: AttentionComparison | None = None  # None: not checked
    # How many hooks have (check, verdict) of `moetap verify`.
    proofs: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    unrunnable: str = ""  # why PyTorch itself cannot run the model, where such models are skipped

    @property
    def passed(self) -> bool:
        return not self.problems and not self.unrunnable

    @property
    def problems(self) -> list[str]:
        return self.comparison.problems + (self.attention.problems if self.attention else [])

    def line(self) -> str:
        c = self.comparison
        if self.unrunnable:
            return f"n/a   {self.model.name:28}  {self.model.pattern:6}  PyTorch cannot run it: {self.unrunnable}"
        words = [f"{'ok' if self.passed else 'FAIL':4}", f"{self.model.name:28}", f"{self.model.pattern:6}"]
        words.append(f"routers {c.found}/{c.expected}" + (f" ({c.skipped} skipped)" if c.skipped else ""))
        if c.found:
            words.append(f"weights {c.worst_weight:.1e}")
            words.append("no logits" if c.without_logits == c.found else f"logits {c.worst_logit:.1e}")
        if self.attention:
            a = self.attention
            words.append(f"attention {a.found}/{a.expected}" + (f" ({a.listed} listed)" if a.listed else ""))
            if a.found:
                words.append(f"P {a.worst_probability:.1e}  values {a.worst_value:.1e}  modes {a.worst_mode:.1e}")
        if self.outputs_checked and self.passed:
            words.append("output same" + "".join(f", {name}" for name in self.passes))
        if not self.passed:
            words.append("| " + "; ".join(self.problems))
        return "  ".join(words)


def check_model(model: Model, settings: Settings) -> Verdict:
    comparison = Comparison()
    attention = AttentionComparison() if settings.attention and has_attention(model) else None
    verdict = Verdict(model, comparison, [], False, attention)
    try:
        with tempfile.TemporaryDirectory(prefix="moetap-conformance-") as scratch:
            _check(model, settings, verdict, pathlib.Path(scratch))
    except (capture.ProgramFailed, ValueError, KeyError, OSError) as error:
        if settings.skip_unrunnable and isinstance(error, capture.ProgramFailed):
            verdict.unrunnable = why_not_run(model)
        if verdict.unrunnable:
            return verdict
        comparison.expected = sum(len(method.calls) for method in model.methods)
        if attention:
            attention.expected = sum(len(method.attention) for method in model.methods)
        comparison.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
    return verdict


def has_attention(model: Model) -> bool:
    """True if the oracle says which attention the model has."""
    return all(method.attention is not None for method in model.methods)


def _check(model: Model, settings: Settings, verdict: Verdict, scratch: pathlib.Path) -> None:
    found = capture.inspect(settings.moetap, model.file)
    with_routers = _has_routers_to_run(model, found, verdict.comparison)
    if not with_routers and not verdict.attention:
        return
    saved = {}
    exceptions = exceptions_of(model.name)
    for method in model.methods:
        saved[method.name] = _check_method(model, method, settings, verdict, found, with_routers, exceptions, scratch)
    if with_routers and verdict.comparison.skipped and not found["skipped"]:
        verdict.comparison.problems.append("routers are missing and nothing is listed as skipped")
    if verdict.attention and (unused := exceptions.unused()):
        verdict.attention.problems.append(f"exceptions that are not needed: {', '.join(unused)}")
    if settings.library is None:
        return
    instrumented = []
    for mode in [*(["off"] if with_routers else []), *(["stats"] if verdict.attention else [])]:
        instrumented.append(scratch / f"instrumented.{mode}.pt")
        options = ["--attention", mode] if mode != "off" else []
        capture.run_program(settings.moetap, ["instrument", str(model.file), "-o", str(instrumented[-1]), *options])
    outputs = check_outputs(model, settings.library, instrumented, saved)
    verdict.comparison.problems += outputs["problems"]
    verdict.passes = outputs["passes"]
    verdict.outputs_checked = True


def _has_routers_to_run(model: Model, found: dict, comparison: Comparison) -> bool:
    """Whether there are routers to compare; where there are none, what that means."""
    expected = sum(len(method.calls) for method in model.methods)
    routers = [hook["name"] for hook in found["hooks"] if hook["kind"] == "router"]
    if not routers:
        comparison.expected = expected
        if expected and not (model.may_be_skipped and found["skipped"]):
            reasons = sorted({entry["reason"] for entry in found["skipped"]})
            comparison.problems.append(f"no router found of {expected} ({'; '.join(reasons) or 'nothing is skipped'})")
        elif expected:
            comparison.skipped = expected
        return False
    if not expected:  # a look-alike: a hook is wrong even where it has no rows
        comparison.problems.append(f"no router must be found, found: {', '.join(routers)}")
        return False
    return True


def _tolerances(model: Model, method, settings: Settings, output) -> tuple[float, float]:
    """Of routers and of attention. Processors round sums of half precision differently: where the model's own output
    differs from the oracle's by more than the tolerance, that of what is captured may, by as much."""
    if not model.low_precision:
        return settings.tolerance, ATTENTION_TOLERANCE
    tolerance = settings.low_precision_tolerance
    if output is not None and method.output is not None and output.dim() > 1:
        rows = output.float().numpy().reshape(-1, output.shape[-1])
        difference = relative_difference(rows, method.output.astype("float32").reshape(rows.shape))
        tolerance = min(max(tolerance, difference), LARGEST_LOW_PRECISION_TOLERANCE)
    return tolerance, tolerance


def _check_method(
    model, method, settings, verdict, found, with_routers: bool, exceptions, scratch: pathlib.Path
) -> list:
    """The outputs that the runs of the method saved."""
    hooks = [hook for hook in found["hooks"] if hook["method"] == method.name]
    routers = [hook for hook in hooks if hook["kind"] == "router"]
    comparison = verdict.comparison
    runs = {}
    for mode in ["full", "stats"] if verdict.attention else ["off"]:
        runs[mode] = scratch / f"{method.name}.{mode}"
        arguments = ["run", str(model.file), "--inputs", str(method.inputs_file), "-o", str(runs[mode])]
        arguments += ["--method", method.name, "--dump", "full", "--save-outputs"]
        arguments += ["--attention", mode] if mode != "off" else []
        capture.run_program(settings.moetap, arguments)
    first = next(iter(runs.values()))
    tolerance, attention_tolerance = _tolerances(model, method, settings, capture.read_output(first))
    routed = []
    if with_routers:
        calls = capture.read_dump(first, routers)
        routed = compare_method(comparison, model, method, routers, calls, tolerance)
        comparison.problems += capture.read_withheld(first)
        entries = capture.count_log_entries(first)
        if method.log_entries not in (None, entries):
            comparison.problems.append(f"{entries} log entries, expected {method.log_entries}")
        if settings.verify:
            proof = capture.verify(settings.moetap, model.file, method.inputs_file, method.name)
            comparison.problems += proof.refuted
            verdict.proofs.update(proof.checks)
    if verdict.attention:
        pair = Runs(runs["full"], runs["stats"])
        compare_attention(verdict.attention, model, method, hooks, pair, routed, exceptions, attention_tolerance)
    return [capture.read_output(run) for run in runs.values()]
