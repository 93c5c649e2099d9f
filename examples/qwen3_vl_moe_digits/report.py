#!/usr/bin/env python3
"""Says what the demo's run shows: the accuracy, by its saved outputs, where the experts went for each digit, and which
files to open.

  report.py RUN_DIR [--evaluation DIR]

Exit status: 0 done, 1 the run is incomplete or disagrees with the samples.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

sys.path.insert(0, str(HERE))


def saved_answers(run: pathlib.Path) -> list[str]:
    """What the model answered in the run, an image each, from the outputs that the run saved."""
    import digits
    from safetensors.torch import load_file

    files = sorted((run / "moetap" / "outputs").glob("*.safetensors"))
    return [str(digits.answers(load_file(str(path))["output"]).item()) for path in files]


def expert_shares(entries: list[dict]) -> dict[str, dict[str, list[float]]]:
    """Share of each expert's tokens by layer and digit, from the log."""
    counts: dict = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
    for entry in entries:
        for layer, values in entry["logs_metrics_vision"][0][0].items():
            if isinstance(values, dict) and "dist_experts_top2" in values:
                for expert, count in enumerate(values["dist_experts_top2"]):
                    counts[layer][entry["doc"]["category"]][expert] += count
    return {
        layer: {
            category: [counter[e] / (sum(counter.values()) or 1) for e in range(len(counter))]
            for category, counter in sorted(categories.items())
        }
        for layer, categories in sorted(counts.items(), key=lambda item: int(item[0]) if item[0].isdigit() else -1)
    }


def attention_to_image(summary: dict) -> dict[str, dict]:
    """By layer of the language model: the share of its attention that goes to the image's tokens (`layer`), and the
    same of the tokens of each expert, weighted by their gate weights (`experts`; None: the expert has no tokens)."""
    shares = {}
    for layer, values in summary["attention"].get("language_model", {}).items():
        image = values["regions"].index("image")
        experts = []
        for flow, weight in zip(values["experts"]["flow"], values["experts"]["flow_weight"], strict=True):
            total = sum(weight)
            mass = sum(row[image] * w for row, w in zip(flow, weight, strict=True))
            experts.append(mass / total if total > 0 else None)
        shares[layer] = {"layer": values["region_mass"][image], "experts": experts}
    return shares


def print_attention(summary: dict) -> None:
    shares = attention_to_image(summary)
    if not shares:
        return
    print("attention to the image's 4 of 11 tokens: layer, then each expert's tokens")
    for layer, values in shares.items():
        experts = " ".join("   -" if value is None else f"{value:4.0%}" for value in values["experts"])
        print(f"  layer {layer}: {values['layer']:4.0%}  {experts}")


def report(run: pathlib.Path, evaluation: pathlib.Path, task: str) -> int:
    samples = [json.loads(line) for line in (evaluation / "samples.jsonl").read_text().splitlines()]
    entries = json.loads((run / f"{task}.json").read_text())["logs"]
    answers = saved_answers(run)
    if not len(samples) == len(entries) == len(answers):
        print(
            f"report: {len(samples)} samples, {len(entries)} log entries, {len(answers)} saved outputs: not one run",
            file=sys.stderr,
        )
        return 1
    differing = [s["doc_id"] for s, answer in zip(samples, answers, strict=True) if s["resps"] != [[answer]]]
    if differing:
        print(f"report: the run answered otherwise than samples.jsonl says, images {differing[:10]}", file=sys.stderr)
        return 1
    right = collections.Counter(s["target"] for s, a in zip(samples, answers, strict=True) if s["target"] == a)
    totals = collections.Counter(s["target"] for s in samples)
    share = sum(right.values()) / len(samples)
    print(
        f"accuracy: {sum(right.values())} of {len(samples)} held-out images ({share:.1%}), by the run's saved outputs"
    )
    print("by digit: " + ", ".join(f"{digit} {right[digit] / totals[digit]:.0%}" for digit in sorted(totals)))
    for layer, categories in expert_shares(entries).items():
        print(f"layer {layer}: share of the tokens' selections by expert")
        for category, shares in categories.items():
            print(f"  {category}: " + " ".join(f"{value:4.0%}" for value in shares))
    print_attention(json.loads((run / "moetap" / "summary.json").read_text()))
    print("open:")
    for path, content in (
        (run / f"{task}.json", "one log entry an image, as LibMoE's toolkit reads it"),
        (run / "moetap" / "summary.json", "all metrics of each layer over the whole run"),
        (run / "moetap" / "manifest.json", "what was run: model, hooks, versions, counters"),
        (run / "moetap" / "dump" / "rank0", "ids and weights of every token (safetensors)"),
    ):
        if path.exists():
            print(f"  {path}: {content}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, metavar="RUN_DIR")
    parser.add_argument("--evaluation", type=pathlib.Path, default=ROOT / ".cache" / "qwen3_vl_moe_digits")
    parser.add_argument("--task", default="log_metrics", help="name of the log file")
    options = parser.parse_args()
    try:
        return report(options.run, options.evaluation, options.task)
    except (OSError, KeyError, ValueError) as error:
        print(f"report: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
