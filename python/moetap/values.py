"""The values of an instrumented TorchScript graph: which of them a model's code can reach, and how the rest follow."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

MAX_DERIVED = 64  # nodes between a reported value and what the model's code holds

ROUTER_KINDS = ("moetap::router", "moetap::router.one")


@dataclass(frozen=True)
class Known:
    """A value that the model's code holds, by its name in the graph."""

    name: str


@dataclass(frozen=True)
class Derived:
    """A value that the instrumented graph computes from others."""

    operator: Callable  # of torch.ops
    arguments: tuple  # of Known, Derived, lists of them, and constants: those of its schema, in order
    output: int | None  # of several outputs

    def call(self, arguments: Sequence) -> tuple[tuple, dict]:
        """`arguments` as the operator takes them: by position, and by name where its schema asks for that."""
        schema = self.operator._schema.arguments
        named = {each.name: value for each, value in zip(schema, arguments, strict=False) if each.kwarg_only}
        return tuple(value for each, value in zip(schema, arguments, strict=False) if not each.kwarg_only), named


@dataclass(frozen=True)
class RouterReport:
    """The operands of one moetap::router."""

    hook: int
    name: str
    logits: Any
    scores: Any
    selected: list
    weights: list
    expert_dim: int
    form: str
    choice: Any

    def operands(self) -> list:
        return [self.logits, self.scores, *self.selected, *self.weights, self.choice]


class Unreachable(ValueError):
    """A value is neither held by the model's code nor follows from what is."""


def operator_of(node) -> Callable:
    """The operator of a node, as torch.ops has it."""
    schema = node.schema()
    name, _, overload = schema.partition("(")[0].partition(".")
    namespace, _, operator = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), operator)
    return getattr(packet, overload or "default")


class GraphValues:
    """Reads the operands of the routers in a graph. `is_known`: whether the model's code holds the value of a name."""

    def __init__(self, is_known: Callable[[str], bool]):
        self.is_known = is_known
        self.count = 0

    def read(self, value) -> Any:
        self.count = 0
        return self._read(value)

    def _read(self, value) -> Any:
        if self.is_known(value.debugName()):
            return Known(value.debugName())
        node = value.node()
        kind = node.kind()
        if kind == "prim::Constant":
            return value.toIValue()
        self.count += 1
        if self.count > MAX_DERIVED:
            raise Unreachable("too many steps lie between it and a value that the model's code holds")
        inputs = list(node.inputs())
        if kind == "prim::ListConstruct":
            return [self._read(each) for each in inputs]
        if kind in ("prim::NumToTensor", "aten::Int", "aten::ScalarImplicit", "prim::data"):
            return self._read(inputs[0])
        if kind in ("prim::Param", "prim::GetAttr") or not kind.startswith("aten::"):
            raise Unreachable(f"it comes from {kind}")
        outputs = list(node.outputs())
        place = next(i for i, each in enumerate(outputs) if each.debugName() == value.debugName())
        arguments = tuple(self._read(each) for each in inputs)
        return Derived(operator_of(node), arguments, place if len(outputs) > 1 else None)


def router_nodes(graph) -> list:
    return list(graph.findAllNodes("moetap::router", recurse=True))


def read_router(node, names: Mapping[int, str], values: GraphValues) -> RouterReport:
    """`names`: of the hooks, by id. Raises ValueError with the hook's name where a value cannot be reached."""
    inputs = list(node.inputs())
    hook = inputs[1].toIValue()

    def read(place: int, what: str):
        try:
            return values.read(inputs[place])
        except Unreachable as error:
            raise ValueError(f"router {names.get(hook, hook)}: its {what} cannot be reached: {error}") from None

    def optional(place: int, what: str):
        try:
            return read(place, what)
        except ValueError:
            return None  # only the check of the hook reads it

    def as_list(value) -> list:
        return value if isinstance(value, list) else [] if value is None else [value]

    return RouterReport(
        hook=hook,
        name=names.get(hook, str(hook)),
        logits=read(2, "logits"),
        scores=read(3, "scores"),
        selected=as_list(read(4, "ids")),
        weights=as_list(read(5, "weights")),
        expert_dim=inputs[6].toIValue(),
        form=inputs[7].toIValue(),
        choice=optional(8, "choice") if len(inputs) > 8 else None,
    )


def known_names(value) -> set[str]:
    """The names of all Known values that a value is made of."""
    if isinstance(value, Known):
        return {value.name}
    if isinstance(value, Derived):
        return set().union(*(known_names(each) for each in value.arguments), set())
    if isinstance(value, list):
        return set().union(*(known_names(each) for each in value), set())
    return set()


def evaluate(value, known: Mapping[str, Any]) -> Any:
    """The tensor (or number) of a value, given those that the model's code holds."""
    if isinstance(value, Known):
        return known[value.name]
    if isinstance(value, Derived):
        arguments, named = value.call([evaluate(each, known) for each in value.arguments])
        result = value.operator(*arguments, **named)
        return result if value.output is None else result[value.output]
    if isinstance(value, list):
        return [evaluate(each, known) for each in value]
    return value


def begin_of(graph) -> tuple[str, list[str]]:
    """The description that the graph's moetap::begin carries, and the names of the arguments that it is given."""
    begins = list(graph.findAllNodes("moetap::begin", recurse=False))
    if not begins:
        raise ValueError("the model's forward holds no router")
    text, _, arguments = list(begins[0].inputs())
    return text.toIValue(), [value.debugName() for value in arguments.node().inputs()]


def hooks_of(description: str) -> dict[int, dict[str, Any]]:
    """A model's hooks, by id."""
    return {hook["id"]: hook for hook in json.loads(description)["hooks"]}
