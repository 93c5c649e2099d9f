"""The notebook's arrays as input: every dtype and order, and what is wrong with hostile files."""

import os
import pickle
import struct

import numpy as np
import pytest
from conftest import files_of, read_table


def rewrite(path, change):
    np.save(path, change(np.load(path)))


def tables(folder) -> dict[str, bytes]:
    return {name: text for name, text in files_of(folder).items() if name.endswith(".csv")}


def test_orders_versions_and_dtypes_give_one_result(analyze, arrays):
    plain = arrays(dtype=np.float16)
    expected = tables(analyze(plain))
    assert len(expected) > 10
    for number, (real, integer, order) in enumerate(
        [("<f8", "<i2", "F"), ("<f4", "<i4", "C"), ("<f8", "<i8", "C"), ("<f4", "<u1", "F"), ("<f2", "<i4", "F")]
    ):
        path = arrays(dtype=np.float16, folder=f"other{number}")
        for name in ("gate_scores", "attn_weights"):
            rewrite(path / f"{name}.npy", lambda a, real=real, order=order: np.array(a, real, order=order))
        rewrite(path / "topk_idx.npy", lambda a, integer=integer, order=order: np.array(a, integer, order=order))
        signed = "<i4" if integer == "<u1" else integer
        rewrite(path / "token_types.npy", lambda a, signed=signed, order=order: np.array(a, signed, order=order))
        for version, name in (((2, 0), "topk_idx"), ((3, 0), "gate_scores")):
            array = np.load(path / f"{name}.npy")
            with open(path / f"{name}.npy", "wb") as file:
                np.lib.format.write_array(file, array, version)
        (path / "token_types.npy").rename(path / "test_token_types.npy")
        assert tables(analyze(path)) == expected, (real, integer, order)


def test_more_padding_and_what_lies_in_it_change_nothing(analyze, arrays):
    expected = tables(analyze(arrays()))
    path = arrays(folder="padded")
    types = np.load(path / "token_types.npy")
    padding = types == -1
    random = np.random.default_rng(9)
    rewrite(path / "topk_idx.npy", lambda a: np.where(padding[None, ..., None], random.integers(-5, 99, a.shape), a))
    rewrite(path / "gate_scores.npy", lambda a: np.where(padding[None, ..., None], np.nan, a).astype(a.dtype))
    both = padding[None, :, :, None] | padding[None, :, None, :]
    rewrite(path / "attn_weights.npy", lambda a: np.where(both & padding[None, :, :, None], 7, a).astype(a.dtype))
    rewrite(path / "token_types.npy", lambda a: np.pad(a, ((0, 0), (0, 3)), constant_values=-1))
    for name in ("topk_idx", "gate_scores"):
        rewrite(path / f"{name}.npy", lambda a: np.pad(a, ((0, 0), (0, 0), (0, 3), (0, 0))))
    rewrite(path / "attn_weights.npy", lambda a: np.pad(a, ((0, 0), (0, 0), (0, 3), (0, 3))))
    found = tables(analyze(path))
    for of in (found, expected):
        del of["input_check.csv"]
        # The notebook's strength is a mean over all S x S cells, padding included.
        rows = [line.rsplit(b",", 1)[0] for line in of["expert_attention_summary.csv"].splitlines()]
        of["expert_attention_summary.csv"] = b"\n".join(rows)
    assert found == expected


def test_the_check_tells_errors_from_oddities(moetap, arrays, assert_fails, tmp_path):
    def changed(name, change, folder):
        path = arrays(folder=folder)
        rewrite(path / f"{name}.npy", change)
        return path

    def put(index, value):
        def change(array):
            array[index] = value
            return array

        return change

    out = ["-o", tmp_path / "x"]
    first = (1, 0, 0, 0)
    for folder, name, change, parts in (
        ("nan", "gate_scores", put(first, np.nan), ["layer 1", "NaN"]),
        ("negative", "gate_scores", lambda a: -a, ["layer 0", "negative"]),
        ("rows", "attn_weights", put(first, np.inf), ["layer 1", "attention"]),
        ("inside", "token_types", lambda a: np.where(np.arange(12)[None] == 0, -1, a), ["padding", "token_types"]),
        ("layers", "topk_idx", lambda a: a[:2], ["gate_scores.npy", "dimension 0"]),
        ("flat", "topk_idx", lambda a: a[0], ["[L, B, S, K]"]),
        ("reals", "topk_idx", lambda a: a.astype(np.float64), ["integers", "float64"]),
        ("many", "topk_idx", lambda a: np.repeat(a, 4, -1), ["8 experts are chosen of 7"]),
        ("wide", "token_types", lambda a: a + 2**40 * (a > -1), ["32 bits"]),
    ):
        assert_fails(1, "analyze", changed(name, change, folder), *out, parts=parts)
    for folder, name, change, part in (
        ("foreign", "topk_idx", put(first, 99), "1 of"),
        ("minus", "topk_idx", put(first, -1), "no expert"),
        ("sums", "gate_scores", lambda a: a * 2, "do not sum to 1"),
        ("swapped", "topk_idx", lambda a: (a + 1) % 7, "K largest gates"),
        ("short", "attn_weights", lambda a: a * 0.5, "attention rows do not sum to 1"),
    ):
        done = moetap("analyze", changed(name, change, folder), "-o", tmp_path / f"out_{folder}")
        assert done.returncode == 0, done.stderr
        assert part in done.stderr, done.stderr
    done = moetap("analyze", tmp_path / "inside", "--definitions", "notebook", "-o", tmp_path / "nb")
    assert done.returncode == 0 and "padding" in done.stderr


def test_files_that_are_missing_are_named(arrays, analyze, assert_fails, tmp_path):
    path = arrays()
    (path / "attn_weights.npy").unlink()
    (path / "gate_scores.npy").unlink()
    assert read_table(analyze(path) / "layer_statistics.csv")["layer"] == ["1", "2", "3"]
    (path / "token_types.npy").unlink()
    assert_fails(1, "analyze", path, "-o", tmp_path / "x", parts=["token_types.npy"])


def header_bytes(literal: str, version=1) -> bytes:
    text = literal.encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("bytes_", "part"),
    [
        (b"", "empty"),
        (b"\x93NUMP", "no .npy"),
        (b"PK\x03\x04" + b"\0" * 100, "no .npy"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 100, "version 9.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "claims"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "truncated"),
        (header_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (3, 6, 12, 2), }"), "truncated"),
        (header_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999, 9999999999, 9, 2), }"), "larger"),
        (header_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 9223372036854775807, 2, 2), }"), "larger"),
        (header_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,), }"), "size"),
        (header_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 2, 2, 2), }"), "header"),
        (header_bytes("{'descr': '>i8', 'fortran_order': False, 'shape': (), }"), "big-endian"),
        (header_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + pickle.dumps(Bomb()), "objects"),
        (header_bytes("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,), }"), "records"),
        (header_bytes("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }"), "<c8"),
        (header_bytes("__import__('os').system('touch executed')"), "header"),
        (header_bytes("{'descr': '<i8', 'shape': (1,), }"), "header"),
        (header_bytes("{" * 60000), "header"),
        (header_bytes("{'descr': '<i8', 'fortran_order': False, 'shape': (" + "1," * 40 + "), }"), "dimensions"),
    ],
)
def test_a_hostile_file_is_one_line(arrays, assert_fails, tmp_path, bytes_, part):
    path = arrays()
    (path / "topk_idx.npy").write_bytes(bytes_)
    assert_fails(1, "analyze", path, "-o", tmp_path / "x", parts=["topk_idx.npy", part])
    assert not (tmp_path / "x").exists() and not os.path.exists("executed")


def test_what_is_no_regular_file(arrays, assert_fails, tmp_path):
    path = arrays()
    (path / "topk_idx.npy").unlink()
    os.mkfifo(path / "topk_idx.npy")
    assert_fails(1, "analyze", path, "-o", tmp_path / "x", parts=["topk_idx.npy", "regular"])


def test_padding_is_in_no_study_of_routing_whatever_the_definitions(analyze, arrays):
    """The notebook's definitions count padding in its own studies; the others never see it."""
    path = arrays()
    recommended, notebook = tables(analyze(path)), tables(analyze(path, "--definitions", "notebook"))
    assert recommended["layer_statistics.csv"] != notebook["layer_statistics.csv"]
    names = ["usage", "load_balance", "expert_cache", "predictability", "token_expert_enrichment", "layer_activation"]
    for name in names:
        assert recommended[f"{name}.csv"] == notebook[f"{name}.csv"], name


def test_padding_is_in_no_comparison_whatever_the_definitions(analyze, arrays):
    """Arrays of other lengths too, whose tokens must be joined one by one."""
    paths = [arrays(folder="a", samples=5), arrays(folder="b", samples=6, seed=1)]
    recommended, notebook = tables(analyze(*paths)), tables(analyze(*paths, "--definitions", "notebook"))
    for name in ["alignment", "usage_comparison", "matching", "switch_fraction"]:
        assert recommended[f"{name}.csv"] == notebook[f"{name}.csv"], name


def test_a_slice_of_tokens_has_no_padding(analyze, arrays):
    path = arrays()
    for token_range in ("7:19", "-9:-2"):
        options = [path, "--only", "usage", f"--token-range={token_range}"]
        assert tables(analyze(*options)) == tables(analyze(*options, "--definitions", "notebook"))
