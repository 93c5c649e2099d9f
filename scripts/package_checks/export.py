"""Writes the layers of one package as case folders that scripts/conformance reads: `export.py PACKAGE DIRECTORY`.

Prints a JSON object a layer: its name, and how it was exported or why it could not be.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import traceback
import warnings

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from conformance_checks.case_files import check_ties, run_model, write_case

from package_checks.layer import Layer, token_ids
from package_checks.recorder import Call, Watcher


class NotExportable(Exception):
    """Neither torch.jit.script nor torch.jit.trace makes a program of it that computes the same."""


def export(layer: Layer, folder: pathlib.Path) -> str:
    """How the layer was exported."""
    torch.manual_seed(layer.seed)
    model = layer.build().eval()
    inputs = (layer.inputs or token_ids)()
    run_model(model, inputs)  # a model may fill a cache in its first run
    with Watcher(layer.watched) as calls:
        expected = run_model(model, inputs)
    if len(calls) != (layer.routers if layer.watched else 0):
        raise AssertionError(f"{len(calls)} calls of routers were recorded, {layer.routers} were announced")
    for call in calls:
        if not layer.may_tie:
            check_ties(call, 1e-5)
    compiled, how = compile_model(layer, model, inputs, expected)
    if how == "traced" and not holds_for_others(layer, model, compiled):
        how += ", holds for these inputs only"
    write_case(folder, compiled, inputs, calls, facts(layer, calls, inputs))
    return how


def compile_model(layer: Layer, model, inputs, expected):
    """Scripted where that works, else traced. A program that computes something else than the package is none."""
    errors = []
    for how, compile_it in (("scripted", script), ("traced", trace)):
        if how == "scripted" and not layer.script:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled = compile_it(model, inputs)
                torch.testing.assert_close(run_model(compiled, inputs), expected, rtol=1e-4, atol=1e-5)
            return compiled, how
        except Exception as error:  # any error says why it cannot be exported
            lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
            errors.append(f"{how}: {lines[0][:200]}")
            print(f"{layer.name} cannot be {how}: {' '.join(lines)[:600]}", file=sys.stderr)  # for who wonders
    raise NotExportable("; ".join(errors))


def holds_for_others(layer: Layer, model, compiled) -> bool:
    """Whether a trace computes what the package does for other values, too: it may have kept the path that it took."""
    inputs = (layer.inputs or token_ids)()
    try:
        torch.testing.assert_close(run_model(compiled, inputs), run_model(model, inputs), rtol=1e-4, atol=1e-5)
    except (AssertionError, RuntimeError):
        return False
    return True


def script(model, inputs):
    return torch.jit.script(model)


def trace(model, inputs):
    return torch.jit.trace(model, example_kwarg_inputs=inputs, check_trace=False)


def facts(layer: Layer, calls: list[Call], inputs: dict[str, torch.Tensor]) -> dict:
    sample = position = None
    if calls and layer.layout:
        batch = 1 if layer.layout == "s" else next(iter(inputs.values())).shape[0]
        length = len(calls[0].ids) // batch
        grid = [(b, s) for b in range(batch) for s in range(length)]
        if layer.layout == "sb":
            grid.sort(key=lambda place: (place[1], place[0]))
        sample, position = ([place[part] for place in grid] for part in (0, 1))
    return {
        "routers": len(calls),
        "ids_as_sets": layer.as_sets,
        "order": None,
        "valid": None,
        "sample": sample,
        "position": position,
        "log_entries": None,
        "proved": bool(calls) and all(call.proved for call in calls),
    }


def main() -> int:
    package, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    try:
        layers = importlib.import_module(f"package_checks.packages.{package}").layers()
    except Exception as error:  # the package does not import: said, not dropped
        traceback.print_exc()
        print(json.dumps({"layer": "-", "error": f"import: {type(error).__name__}: {error}"[:400]}))
        return 0
    for layer in layers:
        result = {"layer": layer.name, "refused": layer.refused}
        try:
            result["how"] = export(layer, directory / layer.name)
        except NotExportable as error:
            result["not_exportable"] = str(error)
        except Exception as error:  # a fault of the check itself
            traceback.print_exc()
            result["error"] = f"{type(error).__name__}: {error}"[:600]
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
