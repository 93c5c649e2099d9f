"""Installs a package, exports its layers and compares what moetap records of them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from conformance_checks import capture
from conformance_checks.cases import find_cases
from conformance_checks.check import Settings, check_model

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 2e-6  # relative: the oracles are made on this machine
FINE = {"right", "refused", "not exportable"}
STOPPED = re.compile(r"ProgramFailed: moetap run exited.*failed and records no more: (.*); nothing was written")
# What scripts/conformance says where something was not recorded.
ABSENT = (" withholds its ", "shape None", "not found", "no rows for", "no router found", "moetap run exited")


@dataclasses.dataclass
class Result:
    requirement: str  # "litgpt==0.5.13"
    layer: str
    how: str  # "traced", "scripted" or "-"
    word: str
    detail: str = ""

    @property
    def fine(self) -> bool:
        return self.word in FINE

    def line(self) -> str:
        detail = f"  | {self.detail}" if self.detail else ""
        return f"{self.word:14}  {self.requirement:30}  {self.layer:24}  {self.how}{detail}"


def table(results: list[Result]) -> list[str]:
    """The table of docs/routers.md: a row for the layers of a package with the same result."""
    rows: dict[tuple, list[str]] = {}
    for result in results:
        detail = f": {result.detail}" if result.detail else ""
        package, _, version = result.requirement.partition("==")
        key = (f"{package} {version}", result.how, f"{result.word}{detail}")
        rows.setdefault(key, []).append(result.layer)
    lines = ["| package | layers | exported | result |", "|---|---|---|---|"]
    return lines + [f"| {name} | {', '.join(layers)} | {how} | {word} |" for (name, how, word), layers in rows.items()]


def package_names() -> list[str]:
    return sorted(path.stem for path in (HERE / "packages").glob("*.py") if path.stem != "__init__")


def check_package(name: str, folder: pathlib.Path, moetap: pathlib.Path) -> list[Result]:
    requirements = importlib.import_module(f"package_checks.packages.{name}").REQUIREMENTS
    try:
        paths = [install(requirement, folder / "site") for requirement in requirements]
        exported = export(name, paths, folder / "cases" / name)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "no message").strip().splitlines()
        return [Result(requirements[0], "-", "-", "not checked", lines[-1])]
    return [judge(requirements[0], entry, folder / "cases" / name, moetap) for entry in exported]


def install(requirement: str, site: pathlib.Path) -> pathlib.Path:
    """The folder that holds the package alone. An interrupted installation leaves none."""
    target = site / requirement
    if not target.is_dir():
        unfinished = site / f"{requirement}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # Some packages exclude the Python of .venv though what is used of them runs with it.
        options = ["-q", "--no-deps", "--no-compile", "--ignore-requires-python", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(unfinished), requirement]
        subprocess.run(command, check=True, capture_output=True, text=True)
        unfinished.rename(target)
    return target


def export(name: str, paths: list[pathlib.Path], cases: pathlib.Path) -> list[dict]:
    """What export.py says of each layer. A process a package: packages replace each other's modules."""
    shutil.rmtree(cases, ignore_errors=True)
    cases.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HERE / "export.py"), name, str(cases)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=900)
    (cases / "export.log").write_text(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"layer"')]


def judge(requirement: str, entry: dict, cases: pathlib.Path, moetap: pathlib.Path) -> Result:
    layer = entry["layer"]
    if "error" in entry:
        return Result(requirement, layer, "-", "not checked", entry["error"])
    if "not_exportable" in entry:
        return Result(requirement, layer, "-", "not exportable", entry["not_exportable"])
    model = find_cases(cases, [layer])[0]
    verdict = check_model(model, Settings(moetap.resolve(), None, TOLERANCE, 2e-2))
    word, detail = verdict_of(verdict, entry["refused"], moetap)
    return Result(requirement, layer, entry["how"], word, detail)


def verdict_of(verdict, true_reason: str, moetap: pathlib.Path) -> tuple[str, str]:
    """right, refused, lost or wrong, and why. A refusal with another reason than the true one is a loss."""
    problems = verdict.comparison.problems
    if not problems:
        return "right", "" if verdict.comparison.expected else "it has no router, and none is found"
    detail = STOPPED.sub(r"its hook stops: \1", "; ".join(problems))
    if not all(any(word in problem for word in ABSENT) for problem in problems):
        return "wrong", detail
    withheld = [problem for problem in problems if " withholds its " in problem]
    if withheld:
        return "refused", "; ".join(withheld)
    if not problems[0].startswith("no router found"):
        return "lost", detail
    reasons = sorted({entry["reason"] for entry in capture.inspect(moetap, verdict.model.file)["skipped"]})
    if true_reason and any(true_reason in reason for reason in reasons):
        return "refused", next(reason for reason in reasons if true_reason in reason)
    return "lost", f"{detail} ({'; '.join(reasons) or 'nothing is skipped'})"
