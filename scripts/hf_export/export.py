"""One export from the options of the command line to the files."""

from __future__ import annotations

import argparse
import os

import torch

from . import build, cache, examples, layout, oracle, patches
from .build import wrap
from .trace import CannotTrace, Traced, frozen, trace


def export_model(options: argparse.Namespace) -> layout.Export:
    dtype = getattr(torch, options.dtype) if options.dtype else None
    if options.family:
        model = build.build_tiny(options.family, options.seed, options.attn, options.experts, dtype or torch.float32)
        name = options.name or options.family
    else:
        if not os.path.isdir(options.checkpoint):
            raise ValueError(f"checkpoint must be a directory, got '{options.checkpoint}'")
        model = build.load_checkpoint(options.checkpoint, options.attn, options.experts, dtype)
        name = options.name or os.path.basename(os.path.abspath(options.checkpoint))
    if options.with_cache:
        return _export_with_cache(model, name, options)
    trace_inputs, inputs = examples.example_inputs(model, options.seed)
    with patches.TraceableCalls() as calls:
        traced, inputs = _trace_checked(model, name, trace_inputs, inputs)
    if calls.rewritten:
        print("patched: scatter with a Python bool")
    module = frozen(traced, inputs) if options.freeze else traced.module
    records = []
    if options.oracle or options.for_conformance:
        with torch.no_grad(), patches.TraceableCalls(), oracle.RouterOracle(traced.eager) as routers:
            output = traced.eager(*inputs.values())
        if not torch.equal(output, traced.output):
            raise ValueError("the eager model gave two outputs for one input: it is not deterministic")
        records = routers.records
        print(f"{name}: {len(records)} routers: {', '.join(record.key for record in records)}")
    export = layout.Export(name, module, inputs, traced.output, records, _facts(model, inputs, traced, options))
    if options.for_conformance:
        files = layout.write_for_conformance(export, options.output)
    else:
        files = layout.write_plain(export, options.output, options.oracle)
    print("\n".join(f"wrote {path}" for path in files))
    return export


def _export_with_cache(model, name: str, options: argparse.Namespace) -> layout.Export:
    for line in patches.apply(model):
        print(f"patched: {line}")
    with patches.TraceableCalls():
        module, inputs = cache.trace_with_cache(model, options.seed)
    print(f"{name}: traced with a cache of shape {module.cache_shape}, checked at a prompt and a step")
    export = layout.Export(name, module, inputs, torch.empty(0), [], {})
    print("\n".join(f"wrote {path}" for path in layout.write_plain(export, options.output, with_oracle=False)))
    return export


def _facts(model, inputs: dict, traced: Traced, options: argparse.Namespace) -> dict:
    return {
        "kind": "vlm" if "pixel_values" in inputs else "lm",
        "family": model.config.model_type,
        "pattern": "I" if model.config.model_type == "doge" else "",  # product keys, which captures may skip
        "source": "hf-trace",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "post": "freeze" if options.freeze else None,
        "seed": options.seed,
        "max_diff_traced_vs_eager": traced.max_difference,
    }


def _trace_checked(model, name: str, trace_inputs: dict, inputs: dict) -> tuple[Traced, dict]:
    """Patches and traces the model, and checks the trace on `inputs`. If the trace holds only for the sequence length
    that it saw, it is checked at that length and another batch. Returns the trace and the inputs of the check."""
    original = wrap(model, list(inputs))
    with torch.no_grad():
        unpatched = original(*inputs.values())
    for line in patches.apply(model):
        print(f"patched: {line}")
    with torch.no_grad():
        change = (original(*inputs.values()).float() - unpatched.float()).abs().max().item()
    if not change <= 1e-4 * max(1.0, unpatched.float().abs().max().item()):
        raise CannotTrace(f"the patched model differs from the original by {change:.3g}")
    note = ""
    try:
        traced = trace(model, trace_inputs, inputs)
    except CannotTrace:
        length = trace_inputs["input_ids"].shape[1]
        inputs = examples.with_length(model, inputs, length)
        traced = trace(model, trace_inputs, inputs)
        note = f" (the trace holds for sequence length {length} only, any batch)"
    shapes = f"traced at {_shape(trace_inputs)}, checked at {_shape(inputs)}{note}"
    print(f"{name}: {shapes}: max |traced - eager| = {traced.max_difference:.3g}")
    return traced, inputs


def _shape(inputs: dict[str, torch.Tensor]) -> str:
    return "x".join(str(size) for size in next(iter(inputs.values())).shape)
