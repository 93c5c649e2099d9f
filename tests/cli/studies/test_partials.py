"""Shards of an analysis: merged in any order they are the whole, bit for bit; what does not fit is refused."""

import json
import random
import shutil
from pathlib import Path

import pytest
from conftest import files_of


def make_shards(moetap, folder: Path, count: int, *arguments) -> list[Path]:
    partials = []
    for shard in range(count):
        out = folder / f"shard{shard}"
        done = moetap("analyze", *arguments, "--shard", f"{shard}/{count}", "-o", out)
        assert done.returncode == 0, done.stderr
        assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {"partial.bin"}
        partials.append(out / "partial.bin")
    return partials


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_of_a_run_are_the_whole(moetap, recorded, tmp_path, count):
    assert moetap("analyze", recorded, "-o", tmp_path / "whole").returncode == 0
    partials = make_shards(moetap, tmp_path, count, recorded)
    random.Random(count).shuffle(partials)
    assert moetap("analyze", "--merge", *partials, "-o", tmp_path / "merged").returncode == 0
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [
        ["--only", "expert_cache", "--warm", "--phase", "prompt"],
        ["--only", "usage", "--phase", "prompt", "--token-range", "0:4"],
        ["--only", "usage", "--phase", "prompt", "--token-range=-9:-2"],
    ],
)
def test_a_study_that_must_see_all_tokens_in_order_is_one_shards(moetap, recorded, tmp_path, options):
    assert moetap("analyze", recorded, *options, "-o", tmp_path / "whole").returncode == 0
    partials = make_shards(moetap, tmp_path, 3, recorded, *options)
    assert moetap("analyze", "--merge", *partials, "-o", tmp_path / "merged").returncode == 0
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


def test_shards_of_arrays_with_attention_are_the_whole(moetap, arrays, tmp_path):
    path = arrays()
    for definitions in ("recommended", "notebook"):
        options = [path, "--definitions", definitions]
        folder = tmp_path / definitions
        assert moetap("analyze", *options, "-o", folder / "whole").returncode == 0
        partials = make_shards(moetap, folder, 4, *options)
        partials.reverse()
        assert moetap("analyze", "--merge", *partials, "-o", folder / "merged").returncode == 0
        assert files_of(folder / "merged") == files_of(folder / "whole")


def test_shards_of_a_pair_and_of_a_log_are_the_whole(moetap, recorded, tmp_path):
    for name, inputs in (("pair", [recorded, recorded]), ("log", [recorded / "log_metrics.json"])):
        folder = tmp_path / name
        assert moetap("analyze", *inputs, "-o", folder / "whole").returncode == 0
        partials = make_shards(moetap, folder, 3, *inputs)
        assert moetap("analyze", "--merge", *partials[::-1], "-o", folder / "merged").returncode == 0
        assert files_of(folder / "merged") == files_of(folder / "whole")


def test_what_does_not_belong_together(moetap, recorded, arrays, assert_fails, tmp_path):
    partials = make_shards(moetap, tmp_path, 3, recorded)
    out = ["-o", tmp_path / "x"]
    assert_fails(1, "analyze", "--merge", *partials[:2], *out, parts=["shard 2/3 is missing"])
    assert_fails(1, "analyze", "--merge", partials[1], *out, parts=["shards 0/3, 2/3 are missing"])
    for options in (["--only", "usage"], ["--definitions", "notebook"], ["--warm"], ["--shard", "0/2"]):
        assert_fails(
            2, "analyze", *out, *options, "--merge", *partials, parts=["--merge", options[0], "exclude each other"]
        )
    assert_fails(1, "analyze", "--merge", *partials, partials[0], *out, parts=["0/3", "shard0/partial.bin"])
    others = make_shards(moetap, tmp_path / "others", 3, arrays())
    assert_fails(1, "analyze", "--merge", partials[0], *others[1:], *out, parts=["shard0", "differ"])
    options = make_shards(moetap, tmp_path / "options", 3, recorded, "--gate", "topk")
    assert_fails(1, "analyze", "--merge", partials[0], *options[1:], *out, parts=["options differ"])
    four = make_shards(moetap, tmp_path / "four", 4, recorded)
    assert_fails(1, "analyze", "--merge", partials[0], *four[1:], *out, parts=["3 shards", "4"])
    assert_fails(2, "analyze", recorded, "--merge", *partials, *out, parts=["--merge"])
    for shard in ("3/3", "-1/3", "1", "a/b", "1/0"):
        assert_fails(2, "analyze", recorded, f"--shard={shard}", *out, parts=["--shard"])
    assert not (tmp_path / "x").exists()


def test_a_changed_input_makes_another_analysis(moetap, recorded, assert_fails, tmp_path):
    shutil.copytree(recorded, tmp_path / "run")
    partials = make_shards(moetap, tmp_path, 2, tmp_path / "run")
    manifest = tmp_path / "run/moetap/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"times": {}}))
    changed = make_shards(moetap, tmp_path / "changed", 2, tmp_path / "run")
    out = ["-o", tmp_path / "x"]
    assert_fails(1, "analyze", "--merge", partials[0], changed[1], *out, parts=["inputs differ"])


def test_every_damage_of_a_partial_is_one_line(moetap, recorded, assert_fails, tmp_path):
    partials = make_shards(moetap, tmp_path, 2, recorded)
    bytes_ = partials[1].read_bytes()
    out = ["-o", tmp_path / "x"]
    damaged = tmp_path / "damaged.bin"
    for size in (0, 5, 8, 11, 20, len(bytes_) // 2, len(bytes_) - 1):
        damaged.write_bytes(bytes_[:size])
        assert_fails(1, "analyze", "--merge", partials[0], damaged, *out, parts=["damaged.bin"])
    for place in random.Random(0).sample(range(len(bytes_)), 20):
        damaged.write_bytes(bytes_[:place] + bytes([bytes_[place] ^ 0x10]) + bytes_[place + 1 :])
        assert_fails(1, "analyze", "--merge", partials[0], damaged, *out, parts=["damaged.bin"])


def checksum(data: bytes) -> int:
    """plugin/formats/checksum.h"""
    prime, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    total = (len(data) + 1) * prime & mask
    for begin in range(0, len(data), 8):
        word = total ^ int.from_bytes(data[begin : begin + 8], "little")
        total = ((word << 29 | word >> 35) & mask) * prime & mask
    return total ^ total >> 32


def with_options(partial: Path, path: Path, options: dict) -> Path:
    """A partial that says it was made with other options, of the right checksum."""
    data = partial.read_bytes()
    size = int.from_bytes(data[12:20], "little")
    header = json.loads(data[20 : 20 + size])
    header["what"]["options"] |= options
    text = json.dumps(header).encode()
    made = data[:12] + len(text).to_bytes(8, "little") + text + data[20 + size : -8]
    path.write_bytes(made + checksum(made).to_bytes(8, "little"))
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regions", 0),
        ("regions", 65),
        ("regions", -5),
        ("draws", 0),
        ("draws", 1 << 40),
        ("delta_max", 0),
        ("top", -1),
        ("max_length", -1),
        ("periods", [0]),
        ("definitions", "other"),
    ],
)
def test_options_that_no_command_line_takes_are_one_line(moetap, arrays, assert_fails, tmp_path, name, value):
    partial = make_shards(moetap, tmp_path, 1, arrays())[0]
    same = with_options(partial, tmp_path / "same.bin", {})
    assert moetap("analyze", "--merge", same, "-o", tmp_path / "merged").returncode == 0
    crafted = with_options(partial, tmp_path / "crafted.bin", {name: value})
    out = ["-o", tmp_path / "x"]
    assert_fails(1, "analyze", "--merge", crafted, *out, parts=["crafted.bin", name])
