"""A directory of models with oracles.

Per model: `NAME.pt` (TorchScript), `NAME.inputs.safetensors` (`NAME.METHOD.inputs.safetensors` for a further method),
`NAME.json` (facts), `NAME.oracle.npz`. In the oracle `output` is the forward's output and `moe/KEY/...` what a call
of a routing module did; KEY is the path of the module, `PATH#1` its second call, `METHOD:PATH` its call through another
method. `attn/KEY/...` is what a call of an attention module did: attention_oracle.py.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .attention_oracle import OracleAttention, attention_of_method

# Patterns that may be listed under `skipped` with a reason instead of being captured.
MAY_BE_SKIPPED = {"I", "J", "S2", "X", "Z"}


@dataclasses.dataclass
class Tokens:
    """What the tokens of a call are, each [T] in the order in which the router sees them. None: not checked."""

    valid: numpy.ndarray | None  # 0: padding, which must not be a row
    sample: numpy.ndarray | None
    position: numpy.ndarray | None


@dataclasses.dataclass
class OracleCall:
    """One call of a routing module, tokens flattened in row-major order: T tokens, E experts, K experts a token."""

    path: str  # of the routing module, without method and call number
    key: str
    logits: numpy.ndarray | None  # [T, E]
    ids: numpy.ndarray  # [T, K]; -1: unused
    weights: numpy.ndarray | None  # [T, K]
    tokens: Tokens | None = None  # None: told from the forward's arguments
    as_sets: bool = False  # an id without weight counts as no id


@dataclasses.dataclass
class Method:
    name: str
    inputs_file: pathlib.Path
    calls: list[OracleCall]  # in order of execution
    output: numpy.ndarray | None
    log_entries: int | None = None  # of one run of the inputs; None: not checked
    attention: list[OracleAttention] | None = None  # calls in order of execution; None: not checked

    def inputs(self) -> dict:
        """The arguments by name; of a model with a stated order, in that order."""
        if self.inputs_file.suffix == ".pt":
            return torch.load(self.inputs_file)
        with safe_open(str(self.inputs_file), "pt") as file:
            order = (file.metadata() or {}).get("forward_order", "")
        order = order.split(",") if order else []
        tensors = load_file(str(self.inputs_file))
        return {name: tensors[name] for name in order if name in tensors} if order else tensors


@dataclasses.dataclass
class Model:
    name: str
    file: pathlib.Path
    facts: dict
    methods: list[Method]

    @property
    def pattern(self) -> str:
        return self.facts.get("pattern") or "?"

    @property
    def may_be_skipped(self) -> bool:
        return any(code in MAY_BE_SKIPPED for code in self.pattern.split("/"))

    @property
    def has_paths(self) -> bool:
        return self.facts.get("post") in (None, "")

    @property
    def low_precision(self) -> bool:
        return self.facts.get("dtype", "float32") in ("bfloat16", "float16")

    @property
    def has_control_flow(self) -> bool:
        return "script" in self.facts.get("source", "")


def find_models(directory: pathlib.Path, only: list[str]) -> list[Model]:
    """The models of a directory in name order. Raises ValueError where a model's files are incomplete."""
    names = sorted(path.name.removesuffix(".oracle.npz") for path in directory.glob("*.oracle.npz"))
    if not names:
        raise ValueError(f"ZOO_DIR must hold NAME.oracle.npz files, '{directory}' has none")
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"--only names no model of '{directory}': {', '.join(unknown)}")
    return [_load(directory, name) for name in names if not only or name in only]


def _load(directory: pathlib.Path, name: str) -> Model:
    files = {suffix: directory / f"{name}{suffix}" for suffix in (".pt", ".json", ".inputs.safetensors", ".oracle.npz")}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise ValueError(f"model '{name}' of '{directory}' is incomplete: no {', '.join(missing)}")
    facts = json.loads(files[".json"].read_text())
    arrays = dict(numpy.load(files[".oracle.npz"]))
    methods = []
    for method in facts.get("methods") or ["forward"]:
        inputs = (
            files[".inputs.safetensors"] if method == "forward" else directory / f"{name}.{method}.inputs.safetensors"
        )
        prefix = "" if method == "forward" else f"{method}:"
        layers = [layer for layer in facts["moe_layers"] if layer.get("method", "forward") == method]
        calls = [_call(layer["key"], prefix, arrays) for layer in layers]
        attention = attention_of_method(facts, arrays, method) if "attention_layers" in facts else None
        methods.append(Method(method, inputs, calls, arrays.get(f"{prefix}output"), attention=attention))
    return Model(name, files[".pt"], facts, methods)


def _call(key: str, prefix: str, arrays: dict[str, numpy.ndarray]) -> OracleCall:
    tensors = {name.rsplit("/", 1)[1]: array for name, array in arrays.items() if name.startswith(f"moe/{key}/")}
    experts_axis = 1 if tensors.get("topk_ids", numpy.empty(())).ndim == 4 else -1
    flat = {name: _rows(array, experts_axis) for name, array in tensors.items()}
    logits = flat.get("logits")
    if "topk_ids" in flat:
        ids, weights = flat["topk_ids"], flat.get("topk_weights")
    elif "token_ids" in flat:
        ids, weights = _from_expert_choice(tensors["token_ids"], tensors["token_weights"], len(flat["logits"]))
    elif "dense_weights" in flat:
        ids, weights = _from_dense(flat["dense_weights"], flat.get("selected_mask"))
    else:
        raise ValueError(f"the oracle of '{key}' holds no selection, only {', '.join(sorted(tensors))}")
    path = key.removeprefix(prefix).split("#")[0]
    return OracleCall(path, key, logits, ids.astype(numpy.int64), weights)


def _rows(array: numpy.ndarray, experts_axis: int) -> numpy.ndarray:
    moved = numpy.moveaxis(array, experts_axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _from_expert_choice(token_ids, token_weights, tokens: int):
    """Turns [E, C] tokens of each expert into [T, E] experts of each token."""
    experts = token_ids.shape[0]
    ids = numpy.full((tokens, experts), -1)
    weights = numpy.zeros((tokens, experts), token_weights.dtype)
    for expert in range(experts):
        ids[token_ids[expert], expert] = expert
        weights[token_ids[expert], expert] = token_weights[expert]
    return ids, weights


def _from_dense(weights, selected):
    selected = numpy.ones_like(weights, bool) if selected is None else selected
    experts = numpy.broadcast_to(numpy.arange(weights.shape[1]), weights.shape)
    return numpy.where(selected, experts, -1), numpy.where(selected, weights, 0)
