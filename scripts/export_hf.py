#!/usr/bin/env python3
"""Exports a Hugging Face Mixture-of-Experts model to TorchScript, with example inputs.

  export_hf.py --family qwen3_moe --tiny -o DIR      a small model with random weights
  export_hf.py CHECKPOINT_DIR -o DIR                 a local checkpoint
  export_hf.py ... -o DIR --with-cache               a decoder that generates with a key-value cache; generate with
                                                     examples/generation/generate.py DIR/model.pt TOKENS
  export_hf.py --list                                families known to work with --tiny

Writes DIR/model.pt and DIR/inputs/*.safetensors, whose names are the names of the forward's arguments, and compares the
traced with the eager model at another batch and sequence length. Exit status: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # an export never downloads
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="local checkpoint directory")
    parser.add_argument("--family", help="model_type of transformers; with --tiny")
    parser.add_argument("--tiny", action="store_true", help="small sizes and random weights")
    parser.add_argument("--list", action="store_true", help="print the families known to work with --tiny")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="directory to write to")
    parser.add_argument("--attn", choices=("sdpa", "eager"), default="sdpa", help="attention implementation")
    parser.add_argument("--experts", choices=("batched_mm", "eager", "grouped_mm"), default="batched_mm")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32, or the checkpoint's"
    )
    parser.add_argument(
        "--freeze", action="store_true", help="freeze the trace, where freezing keeps the model's output"
    )
    parser.add_argument(
        "--with-cache",
        action="store_true",
        help="forward(input_ids, attention_mask, cache) returns the last position's logits and the longer cache",
    )
    parser.add_argument("--oracle", action="store_true", help="also write what the eager model's routers did")
    parser.add_argument(
        "--for-conformance", action="store_true", help="write NAME.* in the layout of scripts/conformance"
    )
    parser.add_argument("--name", help="NAME of --for-conformance, default: the family")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.list:
        if bool(options.checkpoint) == bool(options.family):
            parser.error("give either CHECKPOINT_DIR or --family NAME --tiny")
        if options.family and not options.tiny:
            parser.error("--family needs --tiny: a full-size model with random weights is of no use")
        if not options.output:
            parser.error("-o DIR is missing")
        if options.with_cache and (options.freeze or options.oracle or options.for_conformance):
            parser.error("--with-cache goes with none of --freeze, --oracle and --for-conformance")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"export_hf: {error}: run scripts/setup, then .venv/bin/python {sys.argv[0]}", file=sys.stderr)
        return 1
    from hf_export import families
    from hf_export.export import export_model
    from hf_export.trace import CannotTrace

    if options.list:
        print("\n".join(families.KNOWN))
        return 0
    warnings.filterwarnings("ignore", module="transformers")
    transformers.utils.logging.set_verbosity_error()
    torch.set_grad_enabled(False)
    name = options.family or options.checkpoint
    try:
        export_model(options)
    except CannotTrace as error:
        print(f"export_hf: {name}: cannot be traced: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # the families' own code fails in many ways; each is a line, not a traceback
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        print(f"export_hf: {name}: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
