#!/usr/bin/env python3
"""Makes what the demo evaluates: trains Qwen3-VL-MoE on handwritten digits, exports it to TorchScript and writes the
evaluation, one input file and one line of samples an held-out image.

  prepare.py [-o DIR]     default .cache/qwen3_vl_moe_digits; does nothing if DIR is complete and was made by this code
  prepare.py --check      says what is missing to run it, does nothing else

Writes DIR/model.pt, DIR/inputs/NNNN.safetensors, DIR/samples.jsonl, and for reports DIR/images/NNNN.png and
DIR/vocabulary.json. The answers in samples.jsonl (`resps`) are those of the exported model, evaluated here; `report.py`
compares them with the outputs of the run. Exit status: 0 done, 1 failed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEFAULT_OUTPUT = ROOT / ".cache" / "qwen3_vl_moe_digits"
PACKAGES = {"torch": "torch", "transformers": "transformers", "sklearn": "scikit-learn", "safetensors": "safetensors"}

sys.path[:0] = [str(HERE), str(ROOT / "scripts")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def missing_packages() -> list[str]:
    return [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]


def fingerprint() -> str:
    """Hash of all code that decides the result."""
    digest = hashlib.sha256()
    sources = [HERE / name for name in ("digits.py", "model.py", "train.py", "prepare.py")]
    sources += [ROOT / "scripts" / "hf_export" / name for name in ("build.py", "trace.py")]
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def prepare(output: pathlib.Path) -> None:
    import digits
    import torch
    from hf_export.trace import trace
    from safetensors.torch import save_file
    from train import train

    training, held_out = digits.load_digits()
    model = train(training, held_out)
    work = output.with_name(output.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    (work / "inputs").mkdir(parents=True)
    (work / "images").mkdir()
    (work / "vocabulary.json").write_text(json.dumps(digits.TOKEN))
    evaluation = [evaluation_of(held_out, index) for index in range(len(held_out))]
    traced = trace(model, evaluation[0][1], evaluation[1][1])  # another image, another length of the question
    print(f"exported: max |traced - eager| = {traced.max_difference:.3g} on another image and question")
    traced.module.save(str(work / "model.pt"))
    correct = 0
    with open(work / "samples.jsonl", "w") as samples, torch.no_grad():
        for index, (question, arguments) in enumerate(evaluation):
            answer = str(digits.answers(traced.module(*arguments.values())).item())
            target = str(held_out.labels[index].item())
            correct += answer == target
            save_file(arguments, str(work / "inputs" / f"{index:04d}.safetensors"))
            (work / image_of(index)).write_bytes(digits.png(held_out.pixels[index]))
            samples.write(json.dumps(sample(index, question, target, answer)) + "\n")
    print(f"exported model: {correct} of {len(evaluation)} held-out images right ({correct / len(evaluation):.1%})")
    (work / "complete").write_text(fingerprint() + "\n")
    shutil.rmtree(output, ignore_errors=True)
    work.rename(output)


def evaluation_of(held_out, index: int):
    """The question about a held-out image and the forward's arguments."""
    import digits

    question = digits.QUESTIONS[index % len(digits.QUESTIONS)]
    return question, digits.inputs(held_out.pixels[index : index + 1], question)


def image_of(index: int) -> str:
    return f"images/{index:04d}.png"


def sample(index: int, question: str, target: str, answer: str) -> dict:
    """The log fields of one image, as LibMoE's evaluation writes them."""
    return {
        "doc_id": index,
        "target": target,
        "doc": {"category": f"digit {target}", "question": question, "image": image_of(index)},
        "arguments": [[question, "digits", "test"]],
        "resps": [[answer]],
        "filtered_resps": [answer],
        "domain": [f"digit {target}"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--check", action="store_true", help="only say what is missing")
    options = parser.parse_args()
    missing = missing_packages()
    if missing:
        print(f"prepare: Python packages are missing: {', '.join(missing)}: run scripts/setup", file=sys.stderr)
        return 1
    if options.check:
        return 0
    stamp = options.output / "complete"
    if stamp.is_file() and stamp.read_text().strip() == fingerprint():
        print(f"{options.output} is up to date")
        return 0
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        prepare(options.output)
    except (OSError, RuntimeError) as error:
        print(f"prepare: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
