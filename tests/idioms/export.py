#!/usr/bin/env python3
"""Writes each idiom as a case folder that scripts/conformance reads. Exit status: 0 done, 1 an oracle is not proved."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
import warnings
import zlib

import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "scripts")]

import parts  # noqa: E402
import recorder  # noqa: E402
import surroundings  # noqa: E402, F401 - its wraps are used by name
from conformance_checks.case_files import check_ties, run_model, write_case  # noqa: E402

NOT_IDIOMS = {"export", "parts", "recorder", "surroundings", "test_idioms"}


def load_idioms() -> dict[str, parts.Idiom]:
    for path in sorted(HERE.glob("*.py")):
        if path.stem not in NOT_IDIOMS:
            importlib.import_module(path.stem)
    return parts.IDIOMS


def export(item: parts.Idiom, directory: pathlib.Path) -> None:
    model, inputs, calls, expected = without_ties(item)
    compiled = compile_model(item, model, inputs)
    torch.testing.assert_close(run_model(compiled, inputs), expected, rtol=1e-5, atol=1e-5)
    if len(calls) != item.calls:
        raise AssertionError(f"{len(calls)} calls were recorded, {item.calls} were announced")
    write_case(directory / item.name, compiled, inputs, calls, facts(item, calls, inputs))


def without_ties(item: parts.Idiom):
    """The idiom's model, its inputs, what it routed, and its output: of the first seed that leaves no pick to the last
    bits."""
    seed = zlib.crc32(item.name.encode()) % 10000
    for attempt in range(10):
        torch.manual_seed(seed + attempt)
        model = item.build().eval()
        inputs = item.inputs()
        recorder.start()
        try:
            expected = run_model(model, inputs)
        finally:
            calls = recorder.stop()
        try:
            for call in [] if item.may_tie else calls:
                check_ties(call, 1e-4)
            break
        except AssertionError:
            if attempt == 9:
                raise
    return model, inputs, calls, expected


def compile_model(item: parts.Idiom, model, inputs):
    if item.mode == "script":
        return torch.jit.script(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(model, example_kwarg_inputs=inputs, check_trace=False)


def facts(item: parts.Idiom, calls: list[recorder.Call], inputs: dict[str, torch.Tensor]) -> dict:
    sample = position = valid = None
    mask = inputs.get("attention_mask")
    if calls and item.layout:
        grid = rows_of(item, len(calls[0].ids), mask)
        sample = [b for b, _ in grid]
        position = None if item.layout == "b" else [s for _, s in grid]
    if item.calls == 1 and mask is not None and item.layout not in ("packed", "b"):
        columns = own_columns(mask, inputs)
        valid = (columns.t() if item.layout == "sb" else columns).flatten().tolist()
    return {
        "routers": item.calls,
        "ids_as_sets": item.as_sets,
        "order": None,
        "valid": valid,
        "sample": sample,
        "position": position,
        "log_entries": item.batch if sample and min(sample) >= 0 else None,
    }


def own_columns(mask: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of a mask that covers a cache, the columns of the forward's own tokens."""
    if "cache_position" in inputs:
        return mask[:, inputs["cache_position"]]
    if "memory" in inputs:  # behind the tokens
        return mask[:, : inputs["input_ids"].shape[1]]
    return mask[:, -inputs["input_ids"].shape[1] :] if "input_ids" in inputs else mask


def rows_of(item: parts.Idiom, rows: int, mask: torch.Tensor | None) -> list[tuple[int, int]]:
    """Sample and position of each row that a router sees."""
    if callable(item.layout):
        return item.layout(rows)
    if item.layout == "packed":
        return [tuple(place) for place in mask.nonzero().tolist()]
    length = rows // item.batch
    if item.layout == "sb":
        return [(b, s) for s in range(length) for b in range(item.batch)]
    return [(b, s) for b in range(item.batch) for s in range(length)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    failed = 0
    items = [item for item in load_idioms().values() if not options.only or item.name in options.only]
    for item in items:
        try:
            export(item, options.directory)
        except Exception as error:  # each is named, the others are written
            failed += 1
            print(f"export: {item.name}: {type(error).__name__}: {str(error)[:600]}", file=sys.stderr)
    print(f"{len(items) - failed} of {len(items)} idioms written to {options.directory}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
