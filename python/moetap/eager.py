"""Routers of an eager model report through forward hooks."""

import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from moetap.observe import STATE, ModelNumber, begin_operands, end_operands, new_state
from moetap.taps import Tap, choose_tap
from moetap.traced import FunctionCalls, function_name, is_operator, named_arguments, tensor_at, trace
from moetap.values import GraphValues, begin_of, evaluate, hooks_of, read_router, router_nodes


class EagerTaps:
    """The hooks of one model. `bind`: gives the instrumented twin of a traced module, bound to a session."""

    def __init__(self, model: nn.Module, bind: Callable, example_inputs, dumps_scores: bool, strict: bool):
        self._dumps_scores = dumps_scores
        self._strict = strict
        compiled = isinstance(model, torch._dynamo.OptimizedModule)
        self._model = model._orig_mod if compiled else model
        if STATE in dict(self._model.named_buffers()):
            raise ValueError("the model is attached already: close or detach the other recording first")
        self._bind = bind
        self._hooks = []
        self._replaced = []  # modules whose forward is replaced
        self._stopped = set()  # ids of hooks
        self._number = ModelNumber()
        self._running = threading.local()
        self._at_owner = []  # (module, hook) where one module holds all
        self._warned = False
        if isinstance(self._model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise ValueError(f"attach the model inside {type(self._model).__name__}: its .module")
        if compiled and example_inputs is None:
            raise ValueError("a compiled model is attached with example_inputs")
        torch._dynamo.reset()  # what was compiled before has no hooks
        try:
            if example_inputs is None:
                self._install_at_first_forward()
            else:
                self._install(named_arguments(self._model, example_inputs))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        if (state := self._model._buffers.get(STATE)) is not None:
            torch.ops.moetap.observe(state, *end_operands(self._number.abort))
            torch._dynamo.reset()
        for hook in self._hooks:
            hook.remove()
        for module, before, own in self._replaced:
            if module.__dict__.get("forward") is not own:
                continue  # another library has wrapped it since: it goes on without reports
            if before is None:
                del module.forward
            else:
                module.forward = before
        self._hooks, self._replaced, self._at_owner = [], [], []
        self._model._buffers.pop(STATE, None)
        self._model._non_persistent_buffers_set.discard(STATE)

    def _install_at_first_forward(self) -> None:
        installing = threading.Lock()

        def first_forward(model, args, kwargs):
            with installing:
                if hook not in self._hooks:
                    return  # another thread was first; this forward has begun without hooks
                hook.remove()
                self._hooks.remove(hook)
                self._install({**dict(inspect.signature(model.forward).bind_partial(*args).arguments), **kwargs})
            if any(module is model for module, _, _ in self._replaced):
                _warn("the first forward is not recorded, since the model itself routes: give example_inputs")
                return
            self._begin(model, args, kwargs)

        hook = self._model.register_forward_pre_hook(first_forward, with_kwargs=True)
        self._hooks.append(hook)

    def _install(self, inputs: Mapping[str, Any]) -> None:
        traced = trace(self._model, inputs)
        graph = self._bind(traced.script)._get_method("forward").graph
        self._description, self._arguments = begin_of(graph)
        hooks = hooks_of(self._description)
        names = {number: hook["name"] for number, hook in hooks.items()}
        values = GraphValues(traced.places.__contains__)
        reports = [read_router(node, names, values) for node in router_nodes(graph)]
        taps = [choose_tap(each, traced, self._needs_scores(hooks[each.hook])) for each in reports]

        self._traced = traced.arguments
        parameters = [each for each in inspect.signature(self._model.forward).parameters]
        self._positions = {name: parameters.index(name) for name in self._arguments if name in parameters}
        tensor = next((each for each in self._model.parameters()), torch.empty(0))
        self._model.register_buffer(STATE, new_state(tensor.device), persistent=False)
        self._hooks.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        modules = dict(self._model.named_modules())
        by_owner: dict[str, list[Tap]] = {}
        for tap in taps:
            by_owner.setdefault(tap.owner, []).append(tap)
        for owner, its in by_owner.items():
            runs = traced.calls[owner]
            if all(tap.is_at_owner for tap in its):
                hook = self._report_at_owner(its, runs)
                self._hooks.append(modules[owner].register_forward_hook(hook, with_kwargs=True))
                self._at_owner.append((modules[owner], self._hooks[-1]))
            else:
                self._replace_forward(modules, owner, its, runs)
        self._hooks.append(self._model.register_forward_hook(self._end))
        self._hooks.append(self._model.register_forward_hook(self._abort, always_call=True))

    def _needs_scores(self, hook: Mapping[str, Any]) -> bool:
        """Scores are a column of the full dump, and the entropy of sigmoid scores is measured."""
        return self._dumps_scores or hook["scoring"].startswith("sigmoid")

    # ---- the forward of the model

    def _begin(self, model, args, kwargs) -> None:
        if (state := model._buffers.get(STATE)) is None:
            return
        if not torch.compiler.is_compiling():
            self._keep_hooks_last()
            self._name_unread(kwargs)
        self._running.__dict__.pop("runs", None)
        arguments = []
        for name in self._arguments:
            value = kwargs.get(name)
            if value is None and self._positions.get(name, len(args)) < len(args):
                value = args[self._positions[name]]
            arguments.append(value if isinstance(value, torch.Tensor) else None)
        operands = begin_operands(self._number, self._description, arguments)
        torch.ops.moetap.observe(state, *operands)

    def _end(self, model, args, result) -> None:
        if (state := model._buffers.get(STATE)) is not None:
            torch.ops.moetap.observe(state, *end_operands(self._number.end))

    def _abort(self, model, args, result) -> None:
        state = model._buffers.get(STATE)
        if state is not None and not torch.compiler.is_compiling():
            torch.ops.moetap.observe(state, *end_operands(self._number.abort))

    def _keep_hooks_last(self) -> None:
        """Hooks that were added since may change a router's results: what is reported is what comes behind them."""
        for module, hook in self._at_owner:
            if next(reversed(module._forward_hooks)) != hook.id:
                module._forward_hooks.move_to_end(hook.id)

    def _name_unread(self, kwargs: Mapping[str, Any]) -> None:
        """A mask that the trace has not seen would be ignored without a word."""
        if self._warned:
            return
        unread = [
            name for name, value in kwargs.items() if isinstance(value, torch.Tensor) and name not in self._traced
        ]
        if unread:
            self._warned = True
            _warn(f"{', '.join(unread)}: not among the example inputs, and not read as mask or tokens")

    # ---- its routers

    def _report_at_owner(self, taps: list[Tap], runs: int) -> Callable:
        def hook(module, args, kwargs, result):
            for tap in self._taps_of_run(taps, runs):
                self._report_guarded(tap, lambda tap=tap: _held_by_owner(tap, args, kwargs, result))

        return hook

    def _taps_of_run(self, taps: list[Tap], runs: int) -> list[Tap]:
        """The taps of the run of their owner that this is. An owner that ran once in the trace and runs oftener, as in
        a loop, reports all its runs to the same hooks."""
        if runs == 1:
            return taps
        counts = self._running.__dict__.setdefault("runs", {})
        run = counts[taps[0].owner] = counts.get(taps[0].owner, -1) + 1
        return [tap for tap in taps if tap.run == run % runs]

    def _report_guarded(self, tap: Tap, held: Callable) -> None:
        """Never breaks the model: a router whose values are not where they were in the trace stops."""
        if tap.report.hook in self._stopped:
            return
        if torch.compiler.is_compiling():
            operands = self._operands(tap, held())
        else:
            try:
                operands = self._operands(tap, held())
            except (LookupError, TypeError, AttributeError, RuntimeError) as error:
                if self._strict:
                    raise
                self._stopped.add(tap.report.hook)
                _warn(
                    f"router {tap.report.name} reports no more: its values are not where they were in the trace, since "
                    f"the model runs other code (another shape, training mode?): {error!r}"
                )
                return
        if (state := self._model._buffers.get(STATE)) is not None:
            torch.ops.moetap.observe(state, *operands)

    def _operands(self, tap: Tap, known: Mapping[str, torch.Tensor]) -> tuple:
        report = tap.report
        return (
            self._number.hook(report.hook),
            evaluate(report.logits, known),
            evaluate(report.scores, known),
            evaluate(report.selected, known),
            evaluate(report.weights, known),
            report.expert_dim,
            report.form,
            evaluate(report.choice, known),
        )

    def _replace_forward(self, modules: Mapping[str, nn.Module], owner: str, taps: list[Tap], runs: int) -> None:
        module = modules[owner]
        before = module.__dict__.get("forward")
        forward = module.forward
        below = {place.module for tap in taps for place in tap.places.values() if place.module != owner}
        for name in below:
            self._hooks.append(
                modules[name].register_forward_hook(
                    lambda _, args, kwargs, result, name=name: self._collect_below(name, args, kwargs, result),
                    with_kwargs=True,
                )
            )

        def collecting(*args, **kwargs):
            collectors = self._running.__dict__.setdefault("collectors", [])
            its = self._taps_of_run(taps, runs)
            collector = Collector(its)
            collectors.append(collector)
            try:
                with collector:
                    result = forward(*args, **kwargs)
            finally:
                collectors.pop()
            for tap in its:
                self._report_guarded(tap, lambda tap=tap: collector.held(tap, args, kwargs, result))
            return result

        module.forward = collecting
        self._replaced.append((module, before, collecting))

    def _collect_below(self, name: str, args, kwargs, result) -> None:
        for collector in self._running.__dict__.get("collectors", ()):
            collector.below[name] = (args, kwargs, result)


class Collector(TorchFunctionMode):
    """Keeps what the functions give that one run of a module calls, as far as a tap asks for it."""

    def __init__(self, taps: list[Tap]):
        super().__init__()
        self.functions = FunctionCalls()
        self.below: dict[str, tuple] = {}  # submodule -> its arguments and result
        self.calls: dict[tuple[str, int], Any] = {}
        calls = [place for tap in taps for place in tap.places.values() if place.role == "call"]
        self.wanted = {(place.function, place.call): place.before for place in calls}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if is_operator(function):
            return result
        name = function_name(function)
        call = self.functions.count(name)
        # Where other functions were called before, this is another call than in the trace.
        if self.wanted.get((name, call)) == self.functions.before:
            self.calls[name, call] = result
        return result

    def held(self, tap: Tap, args, kwargs, result) -> dict[str, torch.Tensor]:
        known = {}
        for name, place in tap.places.items():
            if place.role == "call":
                known[name] = tensor_at(self.calls[place.function, place.call], place.path)
            elif place.module == tap.owner:
                known[name] = _at_module(place, args, kwargs, result)
            else:
                known[name] = _at_module(place, *self.below[place.module])
        return known


def _at_module(place, args, kwargs, result) -> torch.Tensor:
    if place.role == "out":
        return tensor_at(result, place.path)
    return tensor_at(args if isinstance(place.path[0], int) else kwargs, place.path)


def _held_by_owner(tap: Tap, args, kwargs, result) -> dict[str, torch.Tensor]:
    return {name: _at_module(place, args, kwargs, result) for name, place in tap.places.items()}


def _warn(line: str) -> None:
    warnings.warn(f"moetap: {line}", stacklevel=3)
