"""A directory of cases: one folder a model, which holds one idiom.

`model.pt` (TorchScript), `in.safetensors` or `in.pt` (the arguments by name), `expect.json` (facts) and
`oracle.safetensors`: `N.logits` [.., E], `N.ids` [.., K], `N.weights` [.., K] of the N-th router call in order of
execution. A case has no paths: its calls are matched with the hooks by their order.
"""

from __future__ import annotations

import json
import pathlib

import numpy
from safetensors.numpy import load_file

from .zoo import Method, Model, OracleCall, Tokens


def find_cases(directory: pathlib.Path, only: list[str]) -> list[Model]:
    """The cases of a directory in name order; empty where it holds none. Raises ValueError where one is incomplete."""
    folders = sorted(path.parent for path in directory.glob("*/expect.json"))
    return [_load(folder) for folder in folders if not only or folder.name in only]


def _load(folder: pathlib.Path) -> Model:
    facts = json.loads((folder / "expect.json").read_text())
    inputs = [path for path in (folder / "in.safetensors", folder / "in.pt") if path.is_file()]
    if not inputs or not (folder / "model.pt").is_file():
        raise ValueError(f"case '{folder.name}' is incomplete: it needs model.pt and in.safetensors or in.pt")
    oracle = folder / "oracle.safetensors"
    arrays = load_file(oracle) if oracle.is_file() else {}
    tokens = Tokens(*(_array(facts.get(name)) for name in ("valid", "sample", "position")))
    numbers = facts.get("order") or range(facts["routers"])
    calls = [_call(number, arrays, tokens, facts.get("ids_as_sets", False)) for number in numbers]
    method = Method("forward", inputs[0], calls, None, facts.get("log_entries"))
    # Without paths, and with whatever branches an idiom needs.
    return Model(folder.name, folder / "model.pt", {"pattern": "case", "post": "case", "source": "script"}, [method])


def _array(values: list[int] | None) -> numpy.ndarray | None:
    return None if values is None else numpy.array(values)


def _call(number: int, arrays: dict[str, numpy.ndarray], tokens: Tokens, as_sets: bool) -> OracleCall:
    rows = {name: _rows(arrays.get(f"{number}.{name}")) for name in ("logits", "ids", "weights")}
    if rows["ids"] is None:
        raise ValueError(f"the oracle holds no '{number}.ids'")
    ids = rows["ids"].astype(numpy.int64)
    return OracleCall("", f"call {number}", rows["logits"], ids, rows["weights"], tokens, as_sets)


def _rows(array: numpy.ndarray | None) -> numpy.ndarray | None:
    return None if array is None else array.reshape(-1, array.shape[-1])
