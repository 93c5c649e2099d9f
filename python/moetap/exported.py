"""Routers of an exported program report by nodes that are inserted into its graph."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._export.verifier import TrainingIRVerifier
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from moetap.observe import STATE, ModelNumber, begin_operands, end_operands, new_state
from moetap.values import (
    Derived,
    GraphValues,
    Known,
    RouterReport,
    begin_of,
    hooks_of,
    read_router,
    router_nodes,
)

_PREFIX = "moetap_"


def instrument_exported(program: ExportedProgram, model_file: str = "", sha256: str = "") -> ExportedProgram:
    """A twin whose routers report to whatever session records it: that of `attach`, or of the process that runs it.

    Raises ValueError where no router was found or a router's values cannot be reached."""

    def instrument(module: torch.jit.ScriptModule):
        try:
            return torch.ops.moetap.instrument(module, model_file, sha256)
        except RuntimeError as error:
            raise ValueError(str(error).splitlines()[0]) from None

    return instrument_with(program, instrument)


def description_of(program: ExportedProgram) -> str | None:
    """The description that an instrumented program carries; None: it is not instrumented."""
    for node in program.graph.nodes:
        # Decomposed programs have it as an argument of a functional operator.
        if node.op == "call_function" and "moetap.observe" in f"{node.target} {node.args[:1]}":
            return next((each for each in (*node.args, *node.kwargs.values()) if isinstance(each, str)), None)
    return None


def instrument_with(program: ExportedProgram, instrument: Callable) -> ExportedProgram:
    """`instrument`: gives the instrumented twin of a traced module."""
    if description_of(program) is not None:
        raise ValueError("the program is instrumented already")
    script, names = _as_script(program)
    graph = instrument(script)._get_method("forward").graph
    description, arguments = begin_of(graph)
    values = GraphValues(names.__contains__)
    hooks = {number: hook["name"] for number, hook in hooks_of(description).items()}
    reports = [read_router(node, hooks, values) for node in router_nodes(graph)]
    return _Inserter(program, names).insert(description, arguments, reports)


def _user_inputs(program: ExportedProgram) -> list[str]:
    return [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    ]


def _example(value: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape that the program was exported with."""
    size = [int(each.node.hint) if isinstance(each, torch.SymInt) else each for each in value.shape]
    if value.dtype.is_floating_point or value.dtype.is_complex:
        return torch.randn(size, dtype=value.dtype, device=value.device)
    return torch.ones(size, dtype=value.dtype, device=value.device)


def _as_script(program: ExportedProgram) -> tuple[torch.jit.ScriptModule, dict[str, str]]:
    """The program as a TorchScript module with the same attributes, and which node each of its values is: by name."""
    module = program.module(check_guards=False)
    module._forward_pre_hooks.clear()  # they check the inputs
    module._forward_pre_hooks_with_kwargs.clear()
    nodes = {node.name: node for node in program.graph.nodes}
    inputs = _user_inputs(program)
    names: dict[str, str] = {}

    class Namer(fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if isinstance(result, torch.Tensor) and node.name in nodes and node.op == "call_function":
                value = torch._C._get_value_trace(result)
                if not value.debugName().startswith(_PREFIX) and value.debugName() not in inputs:
                    value.setDebugName(_PREFIX + node.name)
                names.setdefault(value.debugName(), node.name)
            return result

    def run(*tensors):
        # The placeholders of the module's graph are those of the user's inputs.
        given = dict(zip(inputs, tensors, strict=True))
        flat = [given.get(node.name, node.meta.get("val")) for node in module.graph.nodes if node.op == "placeholder"]
        result = Namer(module).run(*flat, enable_io_processing=False)
        return tuple(each for each in result if isinstance(each, torch.Tensor))

    # The names of the arguments are those of the signature.
    scope = {"run": run}
    exec(f"def forward(self, {', '.join(inputs)}):\n    return run({', '.join(inputs)})", scope)
    type(module).forward = scope["forward"]
    examples = tuple(_example(nodes[name].meta["val"]) for name in inputs)
    try:
        with torch.no_grad():
            script = torch.jit.trace(module, examples, check_trace=False, strict=False)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the program cannot be read: {reason}") from error
    for name in inputs:
        names.setdefault(name, name)
    return script, names


class _Inserter:
    """Puts the calls of moetap::observe into a copy of a program's graph."""

    def __init__(self, program: ExportedProgram, names: dict[str, str]):
        self.program = program
        self.names = names
        self.graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        output = self.graph.graph_copy(program.graph, copied)
        last = next(node for node in program.graph.nodes if node.op == "output")
        self.end = self.graph.output(output)
        self.end.meta = dict(last.meta)
        self.nodes = {node.name: copied[node] for node in program.graph.nodes if node in copied}
        self.number = ModelNumber()

    def insert(self, description: str, arguments: list[str], reports: list[RouterReport]) -> ExportedProgram:
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        specs = list(self.program.graph_signature.input_specs)
        place = next((i for i, spec in enumerate(specs) if spec.kind == InputKind.USER_INPUT), len(specs))
        anchor = placeholders[place] if place < len(placeholders) else next(iter(self.graph.nodes))
        with self.graph.inserting_before(anchor):
            self.state = self.graph.placeholder("b_" + STATE)
        fake_mode = torch._guards.detect_fake_mode(
            [node.meta["val"] for node in placeholders if isinstance(node.meta.get("val"), torch.Tensor)]
        )
        tensor = new_state(_device(placeholders))
        self.fake_mode = fake_mode
        self.state.meta["val"] = fake_mode.from_tensor(tensor, static_shapes=True)
        specs.insert(
            place,
            InputSpec(InputKind.BUFFER, TensorArgument(self.state.name), target=STATE, persistent=True),
        )
        last_placeholder = [node for node in self.graph.nodes if node.op == "placeholder"][-1]
        given = [self.nodes[self.names[name]] if name in self.names else None for name in arguments]
        self.begin = self._observe(last_placeholder, begin_operands(self.number, description, given))
        for report in reports:
            self._insert_report(report)
        with self.graph.inserting_before(self.end):
            self._call(end_operands(self.number.end))
        self.graph.lint()

        signature = torch.export.ExportGraphSignature(specs, list(self.program.graph_signature.output_specs))
        root = fx.GraphModule(self.program.graph_module, self.graph)
        root.meta.update(self.program.graph_module.meta)
        return ExportedProgram(
            root=root,
            graph=root.graph,
            graph_signature=signature,
            state_dict={**self.program.state_dict, STATE: tensor},
            range_constraints=self.program.range_constraints,
            module_call_graph=self.program.module_call_graph,
            example_inputs=self.program.example_inputs,
            constants=self.program.constants,
            verifiers=[TrainingIRVerifier],  # allows an operator that mutates; run_decompositions makes it functional
        )

    def _call(self, operands: tuple) -> fx.Node:
        node = self.graph.call_function(torch.ops.moetap.observe.default, (self.state, *operands))
        node.meta["val"] = None
        return node

    def _observe(self, after: fx.Node, operands: tuple) -> fx.Node:
        with self.graph.inserting_after(after):
            return self._call(operands)

    def _insert_report(self, report: RouterReport) -> None:
        operands = [
            self._node(report.logits),
            self._node(report.scores),
            self._node(report.selected),
            self._node(report.weights),
        ]
        choice = self._node(report.choice)
        places = [each for each in _flat([*operands, choice]) if isinstance(each, fx.Node)]
        last = max([*places, self.begin], key=self._place)
        self._observe(last, (self.number.hook(report.hook), *operands, report.expert_dim, report.form, choice))

    def _place(self, node: fx.Node) -> int:
        return {each: place for place, each in enumerate(self.graph.nodes)}[node]

    def _node(self, value) -> Any:
        if isinstance(value, Known):
            return self.nodes[self.names[value.name]]
        if isinstance(value, list):
            return [self._node(each) for each in value]
        if not isinstance(value, Derived):
            return value
        arguments, named = value.call([self._node(each) for each in value.arguments])
        inputs = [each for each in _flat([*arguments, *named.values()]) if isinstance(each, fx.Node)]
        with self.graph.inserting_after(max(inputs, key=self._place)):
            node = self.graph.call_function(value.operator, arguments, named)
            node.meta["val"] = self._fake(value.operator, arguments, named)
        if value.output is None:
            return node
        with self.graph.inserting_after(node):
            output = self.graph.call_function(operator.getitem, (node, value.output))
            output.meta["val"] = node.meta["val"][value.output]
        return output

    def _fake(self, function, arguments, named) -> Any:
        def value_of(each):
            return each.meta["val"] if isinstance(each, fx.Node) else each

        with self.fake_mode:
            return function(
                *torch.utils._pytree.tree_map_only(fx.Node, value_of, arguments),
                **torch.utils._pytree.tree_map_only(fx.Node, value_of, named),
            )


def _flat(values) -> list:
    return torch.utils._pytree.tree_leaves(values, is_leaf=lambda each: isinstance(each, fx.Node))


def _device(placeholders: list[fx.Node]) -> torch.device:
    tensors = [node.meta["val"] for node in placeholders if isinstance(node.meta.get("val"), torch.Tensor)]
    return next((each.device for each in tensors if each.device.type != "cpu"), torch.device("cpu"))
