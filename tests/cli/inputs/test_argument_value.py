"""Arguments of `moetap run` are what Python makes of them when it calls the same ScriptModule: the model writes down
what it was given, and both must read the same; what Python refuses is refused with the place, both types and no run."""

import importlib.util
import json
from collections import OrderedDict

import pytest
import torch
from conftest import assert_succeeded
from safetensors.torch import load_file, save_file
from torch import tensor

# A router, and a description of the argument as codes of letters.
SOURCE = """
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union
import torch
from torch import Tensor, nn
from moe_model import MoeBlock, WIDTH, VOCABULARY

class Pair(NamedTuple):
    first: Tensor
    second: Tensor

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.moe = MoeBlock()

    def forward(self, input_ids: Tensor, value: {type}) -> Tensor:
        x = self.embedding(input_ids)
        shift = (torch.nan_to_num(self.moe(x)).sum() * 0).long()
        return torch.tensor([ord(letter) for letter in str(value)]) + shift
"""

A, B = tensor([1.0]), tensor([2.5])
IMAGES = [torch.arange(6.0).reshape(2, 3), torch.arange(4.0).reshape(2, 2)]
CACHE = ((A, B), (B, A))
BOTH_LISTS = [[A, B], [B]]
SCALARS = [True, 2, tensor(2.5), tensor(2), tensor(True), tensor([2.5]), tensor([[2]]), -(2**40), 2**31, -1]

ACCEPTED = {
    "Tensor": [A, tensor(2), None],
    "int": SCALARS,
    "float": [*SCALARS, 2.5],
    "bool": [*SCALARS, 2.5, 0, 0.0, None, 1j, False, tensor(0)],
    "complex": [*SCALARS, 2.5, 1.5 - 2j],
    "str": ["abc", "é"],
    "torch.device": ["cpu", torch.device("cpu"), "cuda:1"],
    "List[Tensor]": [IMAGES, tuple(IMAGES), [A], (), []],
    "List[int]": [[1, 2], (1, True), [tensor(3), 4], torch.Size([2, 3]), torch.Size([5]), torch.Size([]), []],
    "List[float]": [[1, 2.5], (1.5,), [tensor(3)], torch.Size([1, 2, 3, 4])],
    "List[bool]": [[True, 0], [None, 2.5]],
    "List[str]": [["ab", "c"], ("ab",)],
    "Tuple[Tensor, Tensor]": [(A, B), [A, B], torch.ones(2, 3), (A, None)],
    "Tuple[int, float]": [(1, 2), [1, 2.5], tensor([3, 4])],
    "List[Tuple[Tensor, Tensor]]": [list(CACHE), CACHE, [[A, B]], [], torch.ones(2, 2), [(A, None)]],
    "Tuple[Tuple[Tensor, Tensor], Tuple[Tensor, Tensor]]": [CACHE, [[A, B], [B, A]], torch.ones(2, 2, 1)],
    "List[List[Tensor]]": [BOTH_LISTS, CACHE, []],
    "List[Optional[Tensor]]": [[A, None], (None,), torch.ones(2)],
    "List[List[int]]": [[[1, 2], (3,)], []],
    "Dict[str, Tensor]": [{"a": A, "b": B}, OrderedDict(a=A), OrderedDict(), {}],
    "Dict[int, Tensor]": [{3: A}, {True: A}],
    "Dict[str, float]": [{"a": 1, "b": tensor(2)}],
    "Dict[str, List[Tuple[Tensor, Tensor]]]": [{"a": CACHE}, OrderedDict(a=[], b=[[A, B]])],
    "Optional[Tensor]": [None, A],
    "Optional[float]": [None, 1, tensor(2)],
    "Optional[List[Tensor]]": [None, IMAGES, (A,)],
    "Optional[Dict[str, Tensor]]": [None, OrderedDict([("b", B), ("a", A)])],
    "Any": [[A], [A, None], (1, A), {"a": [A]}, OrderedDict(a=OrderedDict(b=1)), [1, 2], None, "a", [(A, B)]],
    "Union[int, float, complex]": [1, 2.5, 1j, True],
    "Union[Tensor, List[Tensor]]": [A, [A, B]],
    "Union[float, str]": [2.5, "a"],
    "Pair": [(A, B), [A, B], (A, None)],
}

# Type, value, and what the message says of the place, the expected type and what was found.
REFUSED = [
    ("Tensor", 2, '"value" must be Tensor, got the integer 2'),
    ("Tensor", [A], '"value" must be Tensor, got a list of 1'),
    ("int", 2.0, '"value" must be int, got the float 2'),
    ("int", "2", '"value" must be int, got the text "2"'),
    ("int", None, '"value" must be int, got None'),
    ("int", tensor([1, 2]), '"value" must be int, got a Long tensor of shape [2]'),
    ("int", tensor(1j), '"value" must be int, got a ComplexFloat tensor of shape []'),
    ("float", None, '"value" must be float, got None'),
    ("float", 1j, '"value" must be float, got a ComplexDouble'),
    ("bool", [], '"value" must be bool, got a list of 0'),
    ("str", A, '"value" must be str, got a Float tensor of shape [1]'),
    ("torch.device", "somewhere", '"value" must be Device, got the text "somewhere"'),
    ("List[Tensor]", A, '"value" must be List[Tensor], got a Float tensor of shape [1]'),
    ("List[Tensor]", [A, None], '"value"[1] must be Tensor, got None'),
    ("List[int]", 2, '"value" must be List[int], got the integer 2'),
    ("List[int]", [1, 2.5], '"value"[1] must be int, got the float 2.5'),
    ("List[int]", tensor([1, 2]), '"value" must be List[int], got a Long tensor of shape [2]'),
    ("Tuple[Tensor, Tensor]", (A,), '"value" must be Tuple[Tensor, Tensor], got a tuple of 1'),
    ("List[Tuple[Tensor, Tensor]]", [(A, B), (A, 1)], '"value"[1][1] must be Tensor, got the integer 1'),
    ("List[Tuple[Tensor, Tensor]]", [(A, B), (A, B, A)], '"value"[1] must be Tuple[Tensor, Tensor], got a tuple of 3'),
    ("Dict[str, Tensor]", {"a": {"b": A}}, '"value"["a"] must be Tensor, got a dict of 1'),
    ("Dict[str, Tensor]", {1: A}, '"value"[1] must be str, got the integer 1'),
    ("Optional[int]", 2.5, '"value" must be int, got the float 2.5'),
    ("Any", [], '"value": a list of 0 has no type of elements'),
    ("Any", [A, 1], '"value": the elements of a list of 2 have no type in common: Tensor and int'),
    ("Union[float, str]", 1, '"value" must be Union[float, str], got the integer 1'),
    ("Union[Tensor, List[Tensor]]", (A,), "got a tuple of 1"),
]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {}

    def make(type_name: str):
        """Path and ScriptModule of the model whose argument `value` has that type."""
        if type_name not in made:
            source = folder / f"model_{len(made)}.py"
            source.write_text(SOURCE.replace("{type}", type_name))
            spec = importlib.util.spec_from_file_location(source.stem, source)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            torch.jit.script(module.Model()).save(source.with_suffix(".pt"))
            made[type_name] = source.with_suffix(".pt"), torch.jit.load(source.with_suffix(".pt")).eval()
        return made[type_name]

    return make


IDS = tensor([[1, 2, 3]])


def text_of(codes: torch.Tensor) -> str:
    return "".join(chr(code) for code in codes.tolist())


@pytest.mark.parametrize("type_name", ACCEPTED)
def test_the_model_gets_what_python_gives_it(moetap, model_of, tmp_path, type_name):
    file, module = model_of(type_name)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for index, value in enumerate(ACCEPTED[type_name]):
        torch.save({"input_ids": IDS, "value": value}, inputs / f"{index:02}.pt")
    expected = [text_of(module(IDS, value)) for value in ACCEPTED[type_name]]
    done = moetap("run", file, "--inputs", inputs, "-o", tmp_path / "run", "--save-outputs")
    assert_succeeded(done)
    outputs = tmp_path / "run" / "moetap" / "outputs"
    actual = [text_of(load_file(outputs / f"{index:06}.safetensors")["output"]) for index in range(len(expected))]
    assert actual == expected


@pytest.mark.parametrize(("type_name", "value", "message"), REFUSED, ids=[f"{t} {v}"[:60] for t, v, _ in REFUSED])
def test_what_python_refuses_is_refused_by_name(assert_fails, model_of, tmp_path, type_name, value, message):
    file, module = model_of(type_name)
    with pytest.raises((RuntimeError, ValueError)):
        module(IDS, value)
    torch.save({"input_ids": IDS, "value": value}, tmp_path / "x.pt")
    run = tmp_path / "run"
    assert_fails(1, "run", file, "--inputs", tmp_path / "x.pt", "-o", run, parts=["x.pt: argument ", message])
    assert not run.exists()


@pytest.mark.parametrize(("type_name", "value"), [("List[str]", "ab"), ("List[str]", {"a": 1})])
def test_text_and_dicts_are_no_lists(assert_fails, model_of, tmp_path, type_name, value):
    """Stricter than Python, which takes the letters or the keys."""
    file, module = model_of(type_name)
    module(IDS, value)
    torch.save({"input_ids": IDS, "value": value}, tmp_path / "x.pt")
    parts = ['"value" must be List[str], got']
    assert_fails(1, "run", file, "--inputs", tmp_path / "x.pt", "-o", tmp_path / "run", parts=parts)


@pytest.mark.parametrize("save", [lambda values: tuple(values.values()), OrderedDict])
def test_a_tuple_by_position_and_an_ordered_dict_by_name(moetap, model_of, tmp_path, save):
    file, module = model_of("List[Tuple[Tensor, Tensor]]")
    torch.save(save({"input_ids": IDS, "value": CACHE}), tmp_path / "x.pt")
    run = tmp_path / "run"
    assert_succeeded(moetap("run", file, "--inputs", tmp_path / "x.pt", "-o", run, "--save-outputs"))
    output = load_file(run / "moetap" / "outputs" / "000000.safetensors")["output"]
    assert text_of(output) == text_of(module(IDS, CACHE))


def test_a_tensor_of_safetensors_stands_for_a_number(moetap, model_of, tmp_path):
    file, module = model_of("Tuple[int, float]")
    value = tensor([3, 4])
    save_file({"input_ids": IDS, "value": value}, tmp_path / "x.safetensors")
    run = tmp_path / "run"
    assert_succeeded(moetap("run", file, "--inputs", tmp_path / "x.safetensors", "-o", run, "--save-outputs"))
    output = load_file(run / "moetap" / "outputs" / "000000.safetensors")["output"]
    assert text_of(output) == text_of(module(IDS, value)) == "(3, 4.)"


def test_a_later_file_that_does_not_fit_ends_the_run_there(moetap, model_of, tmp_path):
    file, _ = model_of("float")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, value in [("0", 1), ("1", "a")]:
        torch.save({"input_ids": IDS, "value": value}, inputs / f"{name}.pt")
    done = moetap("run", file, "--inputs", inputs, "-o", tmp_path / "run")
    assert done.returncode == 1
    assert '1.pt: argument "value" must be float, got the text "a"' in done.stderr
    assert "1 of 2 forwards finished" in done.stderr
    assert json.loads((tmp_path / "run" / "moetap" / "manifest.json").read_text())["counters"]["forwards"] == 1
