"""Finds the routers of an eager model: it is traced once, and every tensor in the trace gets the name of a place at
which the model's own code holds it."""

import contextlib
import inspect
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name

_PREFIX = "moetap_"  # of the names of values


@dataclass(frozen=True)
class Place:
    """Where a module's forward holds a tensor.

    role: "out" (of the module), "in" (to it), or "call" (what a function gives that its forward calls).
    path: to the tensor in nested tuples, lists and mappings; for "in" it starts with the argument's position or name.
    """

    role: str
    module: str
    path: tuple
    run: int  # which of the module's runs in one forward of the model
    function: str = ""
    call: int = 0  # which of the calls of the function in that run
    before: int = 0  # hash of the functions that the run had called up to this one


@dataclass
class TracedModel:
    script: torch.jit.ScriptModule
    arguments: set[str] = field(default_factory=set)  # of the model that it was traced with
    places: dict[str, list[Place]] = field(default_factory=dict)  # name of a value -> where it is held
    calls: dict[str, int] = field(default_factory=dict)  # module -> how often it ran
    # What was written in place before a module's run ended: (value, place, module).
    written: set[tuple[str, Place, str]] = field(default_factory=set)


def tensors_in(value: Any, path: tuple = ()):
    """Each tensor in nested tuples, lists and mappings, with its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from tensors_in(each, (*path, key))
    elif isinstance(value, (tuple, list)):
        for place, each in enumerate(value):
            yield from tensors_in(each, (*path, place))


def tensor_at(value: Any, path: tuple) -> torch.Tensor:
    for key in path:
        value = value[key]
    return value


def function_name(function) -> str:
    return resolve_name(function) or getattr(function, "__name__", repr(function))


_COMPARISONS = {f"__{name}__" for name in ("gt", "ge", "lt", "le", "eq", "ne")} | {"gt", "ge", "lt", "le", "eq", "ne"}


def _version_of(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class FunctionCalls:
    """Which functions on tensors a run has called: how often each, and a hash of all in their order."""

    def __init__(self):
        self.counts: dict[str, int] = {}
        self.before = 0

    def count(self, name: str) -> int:
        """Which call of the function this is. The hash holds it then."""
        call = self.counts[name] = self.counts.get(name, -1) + 1
        self.before = hash((self.before, name))
        return call


@dataclass
class Run:
    """One run of a module in a forward of the model."""

    module: str
    number: int
    calls: FunctionCalls = field(default_factory=FunctionCalls)


def _name_of(tensor: torch.Tensor) -> str:
    return torch._C._get_value_trace(tensor).debugName()


def is_operator(function) -> bool:
    """Reports call operators of torch.ops in the middle of a module's run; a model's own code calls functions."""
    return isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))


class _Names(TorchFunctionMode):
    """Names the values of a trace while the model runs."""

    def __init__(self, traced: TracedModel):
        super().__init__()
        self.traced = traced
        self.thread = threading.get_ident()
        self.running: list[Run] = []
        self.held: list[tuple[str, Place, torch.Tensor, int]] = []  # with the version of the tensor
        self.arguments: set[str] = set()  # of the model: they keep their names
        self.sizes: set[str] = set()  # values that are made of sizes alone

    def is_elsewhere(self) -> bool:
        """Whether another thread runs the model meanwhile."""
        return threading.get_ident() != self.thread

    def is_size(self, tensor: torch.Tensor) -> bool:
        if tensor.dim() != 0 or tensor.is_floating_point():
            return False
        value = torch._C._get_value_trace(tensor)
        return value.debugName() in self.sizes or value.node().kind() == "prim::NumToTensor"

    def hold(self, value: Any, place: Place, skip: int = 0) -> None:
        for path, tensor in tensors_in(value):
            traced_value = torch._C._get_value_trace(tensor)
            name = traced_value.debugName()
            if not name.startswith(_PREFIX) and name not in self.arguments:
                name = f"{_PREFIX}{len(self.traced.places)}"
                traced_value.setDebugName(name)
            held = replace(place, path=path[skip:])
            self.traced.places.setdefault(name, []).append(held)
            self.held.append((name, held, tensor, _version_of(tensor)))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not torch._C._is_tracing() or self.is_elsewhere() or is_operator(function):
            return result
        operands = [each for _, each in tensors_in((args, kwargs or {}))]
        made = [each for _, each in tensors_in(result)]
        if operands and all(self.is_size(each) for each in operands) and all(each.dim() == 0 for each in made):
            # In a trace sizes are tensors, in the model's own runs they are numbers: these calls are none of functions
            # on tensors there, and a flag that comes of sizes must be one.
            if getattr(function, "__name__", "") in _COMPARISONS:
                return result.item()
            self.sizes.update(_name_of(each) for each in made)
            return result
        name = function_name(function)
        for run in reversed(self.running):
            call = run.calls.count(name)
            self.hold(result, Place("call", run.module, (), run.number, name, call, run.calls.before))
        return result

    def enter(self, name: str):
        def hook(module, args, kwargs):
            if self.is_elsewhere():
                return
            with torch._C.DisableTorchFunction():  # what is called here is not the model's
                enter(args, kwargs)

        def enter(args, kwargs):
            run = self.traced.calls.get(name, 0)
            self.traced.calls[name] = run + 1
            if not self.running:
                self.arguments = {_name_of(each) for _, each in tensors_in((args, kwargs))}
            self.running.append(Run(name, run))
            self.hold((args, dict(kwargs)), Place("in", name, (), run), skip=1)

        return hook

    def leave(self, name: str):
        def hook(module, args, result):
            if self.is_elsewhere():
                return
            with torch._C.DisableTorchFunction():
                self.hold(result, Place("out", name, (), self.running.pop().number))
                changed = [each for each in self.held if _version_of(each[2]) != each[3]]
            self.traced.written.update((value, place, name) for value, place, _, _ in changed)

        return hook


@contextlib.contextmanager
def _without_tied_parameters(model: nn.Module):
    """torch.jit.trace refuses parameters that modules share: the second gets one of its own with the same memory."""
    seen = set()
    replaced = []
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) in seen:
                replaced.append((module, name, parameter))
            seen.add(id(parameter))
    try:
        for module, name, parameter in replaced:
            module._parameters[name] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter


@contextlib.contextmanager
def _evaluating(model: nn.Module):
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _keeping_buffers(model: nn.Module):
    """Counters of load, for one, are as before."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


@contextlib.contextmanager
def _experts_in_one_operator(model: nn.Module):
    """Experts of Hugging Face models run as one batched product, not as a loop over those that some token chose."""
    choose = getattr(model, "set_experts_implementation", None)
    before = getattr(getattr(model, "config", None), "_experts_implementation", None)
    if choose is None or before is None:
        yield
        return
    try:
        choose("batched_mm")
        yield
    finally:
        choose(before)


def named_arguments(model: nn.Module, inputs: Mapping[str, Any] | Sequence[Any] | torch.Tensor) -> dict[str, Any]:
    """Inputs by the names of the model's arguments."""
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return dict(inspect.signature(model.forward).bind_partial(*inputs).arguments)


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> TracedModel:
    """Runs the model once on `inputs`; leaves it as it was. Raises ValueError where it cannot be traced."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError("example_inputs hold no tensor")
    parameters = inspect.signature(model.forward).parameters
    if "attention_mask" in parameters and "input_ids" in tensors:
        tensors.setdefault("attention_mask", torch.ones_like(tensors["input_ids"]))
    others = {name: value for name, value in inputs.items() if isinstance(value, (bool, int, float, str))}
    for name, value in (("use_cache", False), ("return_dict", False)):
        if name in parameters:
            others[name] = value

    traced = TracedModel(script=None, arguments={*tensors, *others})
    names = _Names(traced)

    def with_others(module, args, kwargs):
        return None if names.is_elsewhere() else (args, {**kwargs, **others})

    def tensors_alone(module, args, result):
        return None if names.is_elsewhere() else tuple(tensor for _, tensor in tensors_in(result))

    hooks = [model.register_forward_pre_hook(with_others, with_kwargs=True)]
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(names.enter(name), with_kwargs=True))
        hooks.append(module.register_forward_hook(names.leave(name)))
    hooks.append(model.register_forward_hook(tensors_alone))
    try:
        with contextlib.ExitStack() as changes:
            changes.enter_context(torch.no_grad())
            changes.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the trace never runs
            changes.enter_context(torch.random.fork_rng())
            for change in (_evaluating, _keeping_buffers, _without_tied_parameters, _experts_in_one_operator):
                changes.enter_context(change(model))
            changes.enter_context(names)
            traced.script = torch.jit.trace(model, example_kwarg_inputs=tensors, check_trace=False, strict=False)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the model cannot be traced with these inputs: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return traced
