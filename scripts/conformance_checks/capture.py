"""Runs the `moetap` program on a model and reads what it captured."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess

import torch
from safetensors import safe_open

SHARD = re.compile(r"^(?P<component>[^.]+?)(\.(?P<layer>[^.]+))?-(?P<number>\d{6})\.safetensors$")


class ProgramFailed(RuntimeError):
    """`moetap` did not exit with 0; the text is its last line on stderr, `output` what it had printed."""

    def __init__(self, message: str, output: str):
        super().__init__(message)
        self.output = output


@dataclasses.dataclass
class CapturedCall:
    """What one call of a hook did. T valid tokens, E experts, K slots."""

    hook: dict  # the entry of `moetap inspect --json`
    sample: torch.Tensor  # int64 [T]; -1: no sample known
    position: torch.Tensor  # int64 [T]
    selected: torch.Tensor  # int64 [T, K]
    weights: torch.Tensor | None  # float32 [T, K]
    logits: torch.Tensor | None  # [T, E]


def run_program(moetap: pathlib.Path, arguments: list[str]) -> str:
    """Standard output of `moetap ARGUMENTS`. One thread, so that it sums in the order of the comparison's own runs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([str(moetap), *arguments], capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ProgramFailed(f"moetap {arguments[0]} exited with {done.returncode}: {lines[-1]}", done.stdout)
    return done.stdout


def inspect(moetap: pathlib.Path, model: pathlib.Path) -> dict:
    """The hooks of a model, and what looks like a router and was skipped. A model without routers is an error of the
    program, which says so and still lists what it skipped."""
    try:
        found = json.loads(run_program(moetap, ["inspect", str(model), "--json"]))
    except ProgramFailed as error:
        if "no router" not in str(error):
            raise
        found = json.loads(error.output)
    found["skipped"] = [entry for entry in found["skipped"] if entry.get("kind", "router") == "router"]
    return found


def read_dump(run_directory: pathlib.Path, hooks: list[dict]) -> list[CapturedCall]:
    """The calls that the dump holds, hook by hook in order of execution, a hook's calls in their order."""
    series: dict[tuple[str, str | None], list[pathlib.Path]] = {}
    for path in sorted((run_directory / "moetap" / "dump" / "rank0").glob("*.safetensors")):
        match = SHARD.match(path.name)
        if match is None:
            raise ValueError(f"the dump holds a file that is no shard: {path.name}")
        if match["layer"] == "attention":  # matrices: attention_capture.py
            continue
        series.setdefault((match["component"], match["layer"]), []).append(path)
    tables = {key: _concatenate(paths) for key, paths in series.items()}
    calls = []
    for hook in hooks:
        component, layer = hook["component"], hook["layer"]
        for key in ((component, None), (component, layer)):
            if f"{layer}.selected" in tables.get(key, {}):
                calls += _calls_of(hook, tables[key])
    return calls


def read_withheld(run_directory: pathlib.Path) -> list[str]:
    """What the hooks' checks of themselves found wrong, a line a column."""
    manifest = json.loads((run_directory / "moetap" / "manifest.json").read_text())
    return [
        f"{hook['name']} withholds its {column}: {reason}"
        for hook in manifest["hooks"]
        for column, reason in hook.get("unverified", {}).items()
    ]


@dataclasses.dataclass
class Proof:
    """What `moetap verify` says of a model's hooks."""

    checks: list[tuple[str, str]]  # (kind of intervention, verdict) of each hook
    refuted: list[str]


def verify(moetap: pathlib.Path, model: pathlib.Path, inputs: pathlib.Path, method: str) -> Proof:
    command = ["verify", str(model), "--inputs", str(inputs), "--method", method, "--json"]
    try:
        output = run_program(moetap, command)
    except ProgramFailed as error:  # it also fails where it refutes something
        if not error.output:
            raise
        output = error.output
    result = json.loads(output)
    refuted = [] if result["output_identical"] else [f"{method}: the output of the verified model differs"]
    checks = []
    for hook in result["hooks"]:
        kind = "attention " if hook["kind"] == "attention" else ""
        for check in hook["checks"]:
            checks.append((kind + check["what"], check["verdict"]))
            if check["verdict"] == "refuted":
                refuted.append(f"{hook['name']}: {kind}{check['what']} refuted: {check['why']}")
    return Proof(checks, refuted)


def count_log_entries(run_directory: pathlib.Path) -> int:
    return len(json.loads((run_directory / "log_metrics.json").read_text())["logs"])


def read_output(run_directory: pathlib.Path) -> torch.Tensor | None:
    files = sorted((run_directory / "moetap" / "outputs").glob("*.safetensors"))
    if not files:
        return None
    with safe_open(str(files[0]), "pt") as file:
        return file.get_tensor("output")


def _concatenate(paths: list[pathlib.Path]) -> dict[str, torch.Tensor]:
    parts: dict[str, list[torch.Tensor]] = {}
    for path in paths:
        with safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open objects are no mappings
                parts.setdefault(name, []).append(file.get_tensor(name))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _calls_of(hook: dict, table: dict[str, torch.Tensor]) -> list[CapturedCall]:
    layer = hook["layer"]
    number = table.get("call", table.get(f"{layer}.call"))
    rows = len(table[f"{layer}.selected"])
    number = torch.zeros(rows, dtype=torch.int32) if number is None else number
    calls = []
    for call in sorted(set(number.tolist())):
        chosen = (number == call).nonzero().squeeze(1)

        def column(name: str, chosen=chosen):
            return table[name][chosen] if name in table else None

        weights = column(f"{layer}.weights")
        calls.append(
            CapturedCall(
                hook,
                column("sample").long(),
                column("position").long(),
                column(f"{layer}.selected").long(),
                None if weights is None else weights.float(),
                column(f"{layer}.logits"),
            )
        )
    return calls
