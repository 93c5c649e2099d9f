"""What the routers of an eager model did, read by Python hooks: the oracle that captures are compared with.

Ids and gate weights are the arguments that the experts module was called with. Logits are what enters the scoring
function, taken from the calls of torch functions between the gate's projection and the experts.
"""

from __future__ import annotations

import dataclasses
import inspect

import torch
from torch.overrides import TorchFunctionMode

from .special_routers import READERS

SCORING = {"softmax", "log_softmax", "sigmoid", "softplus", "logsigmoid"}
PICKING = {"topk", "argmax", "max", "sort", "argsort"}
PROJECTIONS = {"linear", "matmul", "mm", "addmm", "einsum", "__matmul__", "conv2d"}


@dataclasses.dataclass
class Call:
    """One call of a torch function: its name, first tensor argument and output, cloned before they can change."""

    function: str
    path: str
    input: torch.Tensor
    output: torch.Tensor | None


@dataclasses.dataclass
class RouterRecord:
    """What one call of a routing module did. T tokens, E experts, K experts a token."""

    key: str  # path of the module that owns the projection; PATH#1 for its second call
    module: str
    module_type: str
    num_experts: int
    tensors: dict[str, torch.Tensor]  # gate_linear, logits [T, E]; topk_ids, topk_weights [T, K]
    method: str = "forward"


class _Recorder(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.paths: list[str] = [""]
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        interesting = name in SCORING or name in PICKING or name in PROJECTIONS
        first = next((a for a in [*args, *kwargs.values()] if isinstance(a, torch.Tensor)), None)
        before = first.detach().clone() if interesting and first is not None else None
        result = func(*args, **kwargs)
        if before is not None:
            output = result.detach().clone() if isinstance(result, torch.Tensor) else None
            self.calls.append(Call(name, self.paths[-1], before, output))
        return result


class RouterOracle:
    """Records every routing decision of `model` while it is active (a context manager)."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.records: list[RouterRecord] = []
        self._recorder = _Recorder()
        self._handles: list = []
        self._names = {module: name for name, module in model.named_modules()}
        self._has_special = any(type(module).__name__ in READERS for module in model.modules())

    def __enter__(self):
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._push(name), prepend=True))
            self._handles.append(module.register_forward_hook(self._pop))
            if type(module).__name__ in READERS:
                self._handles.append(module.register_forward_hook(self._special(name)))
            elif is_experts(module) and not self._has_special:
                self._handles.append(module.register_forward_pre_hook(self._experts, with_kwargs=True))
        self._recorder.__enter__()
        return self

    def __exit__(self, *error):
        self._recorder.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _push(self, name: str):
        def hook(module, arguments):
            self._recorder.paths.append(name)

        return hook

    def _pop(self, module, arguments, output):
        self._recorder.paths.pop()

    def _experts(self, experts, arguments, keywords):
        tensors = [a for a in [*arguments, *keywords.values()] if isinstance(a, torch.Tensor)]
        ids = next(t for t in tensors if not t.is_floating_point() and t.dtype is not torch.bool)
        weights = next(t for t in tensors[1:] if t.is_floating_point() and t.shape == ids.shape)
        block = self._names[experts].rpartition(".")[0]
        projection = self._projection(block, self._names[experts], ids)
        record = {}
        module = block
        if projection is not None:
            gate = self._recorder.calls[projection]
            module = gate.path
            record["gate_linear"] = gate.output
            record["logits"] = self._logits(projection, gate.output)
        record["topk_ids"] = ids.detach().clone().reshape(-1, ids.shape[-1])
        record["topk_weights"] = weights.detach().clone().reshape(-1, ids.shape[-1])
        num_experts = record["logits"].shape[-1] if "logits" in record else int(experts.num_experts)
        for name in ("gate_linear", "logits"):
            if name in record:
                record[name] = record[name].reshape(-1, record[name].shape[-1])
        self._add(module, num_experts, record)

    def _special(self, name: str):
        def hook(module, inputs, output):
            record = READERS[type(module).__name__](module, inputs, output)
            self._add(name, module.num_experts, record)

        return hook

    def _add(self, module: str, num_experts: int, tensors: dict[str, torch.Tensor]) -> None:
        calls = sum(1 for record in self.records if record.module == module)
        key = f"{module}#{calls}" if calls else module
        kind = type(self.model.get_submodule(module)).__name__
        self.records.append(RouterRecord(key, module, kind, num_experts, tensors))
        self._recorder.calls.clear()

    def _projection(self, block: str, experts: str, ids: torch.Tensor) -> int | None:
        """Index of the call that made the gate's raw output: the last projection of the block to at least two experts
        for as many tokens as the experts got."""
        tokens = ids.numel() // ids.shape[-1]
        num_experts = getattr(self.model.get_submodule(experts), "num_experts", None)
        found = None
        for index, call in enumerate(self._recorder.calls):
            out = call.output
            inside = call.path == block or call.path.startswith(block + ".")
            apart = "shared_expert" in call.path.removeprefix(block)
            if call.function not in PROJECTIONS or out is None or not inside or apart:
                continue
            wide = out.shape[-1] == num_experts or self._feeds_a_choice(index, out)
            if wide and out.shape[-1] > 1 and out.numel() == tokens * out.shape[-1]:
                found = index
        return found

    def _feeds_a_choice(self, index: int, output: torch.Tensor) -> bool:
        later = self._recorder.calls[index + 1 :]
        return any(c.function in PICKING | SCORING and c.input.shape[-1] == output.shape[-1] for c in later)

    def _logits(self, projection: int, gate: torch.Tensor) -> torch.Tensor:
        for call in self._recorder.calls[projection + 1 :]:
            if call.function in SCORING and call.input.shape[-1] == gate.shape[-1]:
                return call.input
            if call.function in PICKING and call.input.shape[-1] == gate.shape[-1]:
                break
        return gate


def is_experts(module: torch.nn.Module) -> bool:
    """True for a module that computes the experts whose ids it gets. Shared experts get no ids."""
    return type(module).__name__.endswith("Experts") and len(inspect.signature(module.forward).parameters) >= 3
