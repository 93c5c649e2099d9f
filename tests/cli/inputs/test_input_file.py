"""Input files of `moetap run`: every way to give them records the same; a wrong one is one line and leaves nothing."""

import json
import struct

import pytest
import torch
from conftest import assert_succeeded
from moe_model import moe_inputs
from safetensors.torch import save_file


@pytest.fixture
def assert_input_refused(assert_fails, models, tmp_path):
    def check(path, *parts):
        run = tmp_path / "run"
        assert_fails(1, "run", models / "moe.pt", "--inputs", path, "-o", run, parts=[str(path), *parts])
        assert not run.exists()

    return check


def test_missing(assert_input_refused, tmp_path):
    assert_input_refused(tmp_path / "none.safetensors", "no such input")


def test_unknown_kind(assert_input_refused, tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    assert_input_refused(tmp_path / "x.csv", "unknown kind")


def test_directory_without_inputs(assert_input_refused, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert_input_refused(tmp_path / "nothing", "holds no input")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
@pytest.mark.parametrize("content", [b"", b"\x01", b"not tensors " * 10, b"PK\x03\x04" + bytes(60)])
def test_not_tensors(assert_input_refused, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_input_refused(tmp_path / name)


def test_unknown_name_lists_the_arguments(assert_input_refused, tmp_path):
    values = moe_inputs(1, 4, seed=0)
    save_file({**values, "tokens": values["input_ids"].clone()}, tmp_path / "x.safetensors")
    assert_input_refused(tmp_path / "x.safetensors", '"tokens" is no argument', "input_ids", "attention_mask")


def test_missing_name_lists_the_arguments(assert_input_refused, tmp_path):
    save_file({"input_ids": moe_inputs(1, 4, seed=0)["input_ids"]}, tmp_path / "x.safetensors")
    assert_input_refused(tmp_path / "x.safetensors", '"attention_mask" is missing', "input_ids")


def test_wrong_dtype(assert_input_refused, tmp_path):
    values = moe_inputs(1, 4, seed=0)
    save_file({**values, "input_ids": values["input_ids"].double()}, tmp_path / "x.safetensors")
    assert_input_refused(tmp_path / "x.safetensors", "forward failed")


def test_wrong_rank(assert_input_refused, tmp_path):
    values = moe_inputs(1, 4, seed=0)
    values["attention_mask"] = torch.ones(3, 4, 5)
    save_file(values, tmp_path / "x.safetensors")
    assert_input_refused(tmp_path / "x.safetensors", "forward failed")


def test_text_where_a_tensor_is_expected(assert_input_refused, tmp_path):
    torch.save({**moe_inputs(1, 4, seed=0), "input_ids": "abc"}, tmp_path / "x.pt")
    assert_input_refused(tmp_path / "x.pt")


def test_too_many_values(assert_input_refused, tmp_path):
    torch.save((torch.zeros(1),) * 5, tmp_path / "x.pt")
    assert_input_refused(tmp_path / "x.pt", "5 values")


def test_pickled_code_is_not_run(assert_input_refused, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "attacked"), "w"))

    torch.save({"input_ids": Attack()}, tmp_path / "x.pt")
    assert_input_refused(tmp_path / "x.pt")
    assert not (tmp_path / "attacked").exists()


def safetensors_bytes(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list, offsets: list, dtype: str = "I64") -> dict:
    return {"input_ids": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE = {
    "length beyond the file": safetensors_bytes(entry([1], [0, 8]), bytes(8), length=1 << 40),
    "length of 2^64 - 1": safetensors_bytes(entry([1], [0, 8]), bytes(8), length=(1 << 64) - 1),
    "no JSON": safetensors_bytes(b"{{{{{{{{"),
    "deep JSON": safetensors_bytes(b'{"a":' * 50_000),
    "an array": safetensors_bytes(b"[1, 2]"),
    "no UTF-8": safetensors_bytes(b'{"\xff\xfe": 1}'),
    "negative offset": safetensors_bytes(entry([1], [-8, 0]), bytes(8)),
    "offsets beyond the data": safetensors_bytes(entry([2], [0, 16]), bytes(8)),
    "offsets backwards": safetensors_bytes(entry([1], [8, 0]), bytes(8)),
    "shape larger than the data": safetensors_bytes(entry([1000], [0, 8]), bytes(8)),
    "shape product overflows": safetensors_bytes(entry([1 << 32, 1 << 32], [0, 0])),
    "negative shape": safetensors_bytes(entry([-1], [0, 8]), bytes(8)),
    "unknown dtype": safetensors_bytes(entry([1], [0, 8], dtype="Q9"), bytes(8)),
    "key twice": safetensors_bytes(
        b'{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "overlap": safetensors_bytes(
        {
            "a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
            "b": {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]},
        },
        bytes(12),
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_safetensors(assert_input_refused, tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert_input_refused(tmp_path / "x.safetensors")


def summary_of(moetap, model, path, run):
    done = moetap("run", model, "--inputs", path, "-o", run)
    assert_succeeded(done)
    return json.loads((run / "moetap" / "summary.json").read_text())


def test_every_format_records_the_same(moetap, models, tmp_path):
    values = moe_inputs(2, 6, seed=1)
    save_file(values, tmp_path / "named.safetensors")
    torch.save(values, tmp_path / "dict.pt")
    torch.save(tuple(values.values()), tmp_path / "tuple.pt")
    torch.save(list(values.values()), tmp_path / "list.pt")
    files = ["named.safetensors", "dict.pt", "tuple.pt", "list.pt"]
    summaries = [summary_of(moetap, models / "moe.pt", tmp_path / name, tmp_path / f"run-{name}") for name in files]
    assert summaries[0]["forwards"] == 1
    assert all(summary == summaries[0] for summary in summaries[1:])


def test_an_argument_with_a_default_may_be_given(moetap, models, tmp_path):
    torch.save({**moe_inputs(1, 6, seed=1), "scale": 2.0}, tmp_path / "x.pt")
    assert summary_of(moetap, models / "moe.pt", tmp_path / "x.pt", tmp_path / "run")["forwards"] == 1
