#!/usr/bin/env python3
"""Writes the demo's model with its weights rounded to a few bits, a scale for each row, as weight-only quantisation
does: to see whether routing changes.

  quantise.py MODEL.pt OUT.pt [--bits 4]

The model computes in float32 as before; only the values of its matrices are those that the bits can hold.
"""

from __future__ import annotations

import argparse
import pathlib


def rounded(weight, bits: int):
    """The nearest of 2^bits - 1 values from -largest to largest of each row."""
    largest = weight.abs().amax(dim=-1, keepdim=True)
    step = largest.clamp_min(1e-30) / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--bits", type=int, default=4, choices=range(2, 17), metavar="BITS")
    options = parser.parse_args()
    import torch

    model = torch.jit.load(str(options.model), map_location="cpu")
    matrices = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(rounded(parameter, options.bits))
                matrices += 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model.save(str(options.out))
    print(f"{options.out}: {matrices} matrices of {options.bits} bits")


if __name__ == "__main__":
    main()
