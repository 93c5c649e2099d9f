"""Reads what a run recorded of attention layers."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import numpy
from safetensors import safe_open

MATRICES = re.compile(r"^(?P<component>[^.]+)\.attention-\d{6}\.safetensors$")


@dataclasses.dataclass
class CapturedAttention:
    """The head means that one call of a hook had in a run with `--attention full`."""

    hook: dict  # the entry of `moetap inspect --json`
    samples: dict[int, list[tuple[int, numpy.ndarray]]]  # sample -> (position of the first query, [queries, keys])


@dataclasses.dataclass
class RecordedRows:
    """The rows of a layer in the dump of a run with `--attention stats`."""

    columns: list[str]
    sample: numpy.ndarray  # int [T]
    position: numpy.ndarray  # int [T]: column of the sequence
    values: numpy.ndarray  # float32 [T, V]


def dump_folder(run: pathlib.Path) -> pathlib.Path:
    return run / "moetap" / "dump" / "rank0"


def read_matrices(run: pathlib.Path, hooks: list[dict]) -> list[CapturedAttention]:
    """The calls of a run of one forward in order of the hooks, a hook's calls in their order. Tensors are called
    LAYER/SAMPLE/QUERY, where SAMPLE is -1.FORWARD.ROW if the sample is not known, and LAYER/SAMPLE/QUERY/CALL for calls
    of a loop behind its first. A name that is there again, in a later shard, is of the hook's next call."""
    calls: dict[tuple[str, str], list[dict]] = {}
    for path in sorted(dump_folder(run).glob("*.attention-*.safetensors")):
        component = MATRICES.match(path.name)["component"]
        with safe_open(str(path), "np") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open objects are no mappings
                layer, sample, query, *later = name.split("/")
                place = (int(sample.rpartition(".")[2]), int(query))
                of_layer = calls.setdefault((component, layer), [])
                while len(of_layer) <= int(later[0] if later else 0):
                    of_layer.append({})
                if all(place in call for call in of_layer):
                    of_layer.append({})
                call = of_layer[int(later[0])] if later else next(call for call in of_layer if place not in call)
                call[place] = file.get_tensor(name)
    known = {(hook["component"], hook["layer"]) for hook in hooks}
    if unknown := sorted(calls.keys() - known):
        raise ValueError(f"the dump holds attention of no hook: {', '.join('/'.join(key) for key in unknown)}")
    found = []
    for hook in hooks:
        for call in calls.get((hook["component"], hook["layer"]), []):
            samples: dict[int, list[tuple[int, numpy.ndarray]]] = {}
            for sample, query in sorted(call):
                samples.setdefault(sample, []).append((query, call[sample, query]))
            found.append(CapturedAttention(hook, samples))
    return found


def read_rows(run: pathlib.Path, component: str, layer: str) -> RecordedRows | None:
    """The rows of the layer's column `attention_stats`; None where the dump has none."""
    name = f"{layer}.attention_stats"
    parts = []
    columns: list[str] = []
    for path in sorted(dump_folder(run).glob(f"{component}*.safetensors")):
        with safe_open(str(path), "np") as file:
            if name not in file.keys():  # noqa: SIM118
                continue
            columns = _column_names((file.metadata() or {})["attention_columns"], layer)
            parts.append([file.get_tensor(part) for part in ("sample", "position", name)])
    if not parts:
        return None
    sample, position, values = (numpy.concatenate(part) for part in zip(*parts, strict=True))
    return RecordedRows(columns, sample.astype(int), position.astype(int), values)


def _column_names(text: str, layer: str) -> list[str]:
    """The names, which may be a list in JSON, an object with a list for each layer, or joined by commas."""
    try:
        names = json.loads(text)
    except json.JSONDecodeError:
        return text.split(",")
    return names[layer] if isinstance(names, dict) else names


def read_summary(run: pathlib.Path) -> dict:
    """component -> layer -> values of attention."""
    return json.loads((run / "moetap" / "summary.json").read_text())["attention"]


def read_log(run: pathlib.Path) -> list[dict]:
    """Of each sample, component -> layer -> values of attention."""
    entries = json.loads((run / "log_metrics.json").read_text())["logs"]
    found = []
    for entry in entries:
        layers = entry.get("logs_metrics_moe", {})
        found.append(
            {
                component: {layer: values["attention"] for layer, values in by_layer.items() if "attention" in values}
                for component, by_layer in layers.items()
            }
        )
    return found
