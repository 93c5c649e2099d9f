"""The check of one model: inspect, run, compare with the oracle, compare outputs."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import tempfile

from . import capture
from .compare import Comparison, compare_method
from .outputs import check_outputs, why_not_run
from .zoo import Model


@dataclasses.dataclass
class Settings:
    moetap: pathlib.Path
    library: pathlib.Path | None  # None: outputs are not compared
    tolerance: float  # fp32
    low_precision_tolerance: float
    skip_unrunnable: bool = False  # a model that PyTorch itself cannot run is no failure
    verify: bool = False  # prove the hooks by intervention


@dataclasses.dataclass
class Verdict:
    model: Model
    comparison: Comparison
    passes: list[str]
    outputs_checked: bool
    # How many hooks have (check, verdict) of `moetap verify`.
    proofs: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    unrunnable: str = ""  # why PyTorch itself cannot run the model, where such models are skipped

    @property
    def passed(self) -> bool:
        return not self.comparison.problems and not self.unrunnable

    def line(self) -> str:
        c = self.comparison
        if self.unrunnable:
            return f"n/a   {self.model.name:28}  {self.model.pattern:6}  PyTorch cannot run it: {self.unrunnable}"
        words = [f"{'ok' if self.passed else 'FAIL':4}", f"{self.model.name:28}", f"{self.model.pattern:6}"]
        words.append(f"routers {c.found}/{c.expected}" + (f" ({c.skipped} skipped)" if c.skipped else ""))
        if c.found:
            words.append(f"weights {c.worst_weight:.1e}")
            words.append("no logits" if c.without_logits == c.found else f"logits {c.worst_logit:.1e}")
        if self.outputs_checked and self.passed:
            words.append("output same" + "".join(f", {name}" for name in self.passes))
        if not self.passed:
            words.append("| " + "; ".join(c.problems))
        return "  ".join(words)


def check_model(model: Model, settings: Settings) -> Verdict:
    comparison = Comparison()
    verdict = Verdict(model, comparison, [], False)
    tolerance = settings.low_precision_tolerance if model.low_precision else settings.tolerance
    try:
        with tempfile.TemporaryDirectory(prefix="moetap-conformance-") as scratch:
            _check(model, settings, tolerance, comparison, verdict, pathlib.Path(scratch))
    except (capture.ProgramFailed, ValueError, KeyError, OSError) as error:
        if settings.skip_unrunnable and isinstance(error, capture.ProgramFailed):
            verdict.unrunnable = why_not_run(model)
        if verdict.unrunnable:
            return verdict
        comparison.expected = sum(len(method.calls) for method in model.methods)
        comparison.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
    return verdict


def _check(model, settings, tolerance, comparison, verdict, scratch: pathlib.Path) -> None:
    found = capture.inspect(settings.moetap, model.file)
    if not found["hooks"]:
        expected = sum(len(method.calls) for method in model.methods)
        comparison.expected = expected
        if expected and not (model.may_be_skipped and found["skipped"]):
            reasons = sorted({entry["reason"] for entry in found["skipped"]})
            comparison.problems.append(f"no router found of {expected} ({'; '.join(reasons) or 'nothing is skipped'})")
        elif expected:
            comparison.skipped = expected
        return
    if not any(method.calls for method in model.methods):  # a look-alike: a hook is wrong even where it has no rows
        names = ", ".join(hook["name"] for hook in found["hooks"] if hook["kind"] == "router")
        comparison.problems.append(f"no router must be found, found: {names}")
        return
    saved = {}
    for method in model.methods:
        hooks = [hook for hook in found["hooks"] if hook["method"] == method.name and hook["kind"] == "router"]
        run = scratch / method.name
        capture.run_program(
            settings.moetap,
            [
                *("run", str(model.file), "--inputs", str(method.inputs_file), "-o", str(run)),
                *("--method", method.name, "--dump", "full", "--save-outputs"),
            ],
        )
        compare_method(comparison, model, method, hooks, capture.read_dump(run, hooks), tolerance)
        comparison.problems += capture.read_withheld(run)
        entries = capture.count_log_entries(run)
        if method.log_entries not in (None, entries):
            comparison.problems.append(f"{entries} log entries, expected {method.log_entries}")
        saved[method.name] = capture.read_output(run)
        if settings.verify and hooks:
            proof = capture.verify(settings.moetap, model.file, method.inputs_file, method.name)
            comparison.problems += proof.refuted
            verdict.proofs.update(proof.checks)
    if comparison.skipped and not found["skipped"]:
        comparison.problems.append("routers are missing and nothing is listed as skipped")
    if settings.library is None:
        return
    instrumented = scratch / "instrumented.pt"
    capture.run_program(settings.moetap, ["instrument", str(model.file), "-o", str(instrumented)])
    outputs = check_outputs(model, settings.library, instrumented, saved)
    comparison.problems += outputs["problems"]
    verdict.passes = outputs["passes"]
    verdict.outputs_checked = True
