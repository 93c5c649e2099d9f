"""The files of an export: TorchScript module, inputs, oracle.

Two layouts. A plain export is a directory with `model.pt`, `inputs/NNNN.safetensors` and `oracle.npz`. The layout that
`scripts/conformance` reads has all models in one directory, as `NAME.pt`, `NAME.inputs.safetensors`, `NAME.oracle.npz`
and `NAME.json`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy
import torch
from safetensors.torch import save_file

from .oracle import RouterRecord


@dataclasses.dataclass
class Export:
    name: str
    module: torch.jit.ScriptModule
    inputs: dict[str, torch.Tensor]
    output: torch.Tensor
    records: list[RouterRecord]
    facts: dict  # family, dtype, source, notes: goes into NAME.json as it is
    method_inputs: dict[str, dict[str, torch.Tensor]] = dataclasses.field(default_factory=dict)


def write_plain(export: Export, directory: pathlib.Path, with_oracle: bool) -> list[pathlib.Path]:
    (directory / "inputs").mkdir(parents=True, exist_ok=True)
    files = [directory / "model.pt", directory / "inputs" / "0000.safetensors"]
    export.module.save(str(files[0]))
    _write_inputs(export.inputs, files[1])
    if with_oracle:
        files.append(directory / "oracle.npz")
        _write_oracle(export, files[-1])
    return files


def write_for_conformance(export: Export, directory: pathlib.Path) -> list[pathlib.Path]:
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{export.name}{suffix}" for suffix in (".pt", ".inputs.safetensors", ".oracle.npz", ".json")]
    export.module.save(str(files[0]))
    _write_inputs(export.inputs, files[1])
    for method, inputs in export.method_inputs.items():
        _write_inputs(inputs, directory / f"{export.name}.{method}.inputs.safetensors")
    _write_oracle(export, files[2])
    layers = [_layer(record) for record in export.records]
    facts = {
        "name": export.name,
        "methods": ["forward", *export.method_inputs],
        "post": None,
        **export.facts,
        "inputs": [{"name": n, "dtype": _dtype(t), "shape": list(t.shape)} for n, t in export.inputs.items()],
        "moe_layers": layers,
    }
    files[3].write_text(json.dumps(facts, indent=1) + "\n")
    return files


def _layer(record: RouterRecord) -> dict:
    ids = record.tensors.get("topk_ids")
    return {
        "key": record.key,
        "method": record.method,
        "module": record.module,
        "module_type": record.module_type,
        "E": record.num_experts,
        "K": ids.shape[-1] if ids is not None else None,
        "tensors": {name: list(tensor.shape) for name, tensor in record.tensors.items()},
    }


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _write_inputs(inputs: dict[str, torch.Tensor], path: pathlib.Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in inputs.items()}
    save_file(tensors, str(path), metadata={"forward_order": ",".join(inputs)})


def _write_oracle(export: Export, path: pathlib.Path) -> None:
    arrays = {"output": _array(export.output)}
    for record in export.records:
        for name, tensor in record.tensors.items():
            arrays[f"moe/{record.key}/{name}"] = _array(tensor)
    numpy.savez(path, **arrays)


def _array(tensor: torch.Tensor) -> numpy.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
