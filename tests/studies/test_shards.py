"""Parts of the data, analysed apart and merged in any order: the bytes of the whole."""

import random
from pathlib import Path

import pytest
from arrays import Shape, random_arrays, save_arrays
from routing_runs import RunShape, random_run, save_run

OPTIONS = {"recommended": [], "notebook": ["--definitions", "notebook"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_merges(analyze, source: Path, options: list[str], shards: int, seed: int) -> None:
    whole = contents(analyze(source, *options))
    parts = [analyze(source, *options, "--shard", f"{i}/{shards}") / "partial.bin" for i in range(shards)]
    random.Random(seed).shuffle(parts)
    merged = contents(analyze("--merge", *parts))
    assert any(name.endswith(".csv") for name in whole)
    assert merged == whole


@pytest.mark.parametrize("definitions", OPTIONS)
def test_arrays(definitions, analyze, tmp_path):
    arrays = random_arrays(31, Shape(samples=7, duplicates=0.1))
    assert_merges(analyze, save_arrays(tmp_path / "arrays", arrays), OPTIONS[definitions], shards=3, seed=1)


@pytest.mark.parametrize("seed", range(2))
def test_runs(seed, analyze, tmp_path):
    run = random_run(seed + 40, RunShape(full=seed == 1))
    assert_merges(analyze, save_run(tmp_path / "run", run, shards=3), [], shards=4, seed=seed)


def test_more_shards_than_samples(analyze, tmp_path):
    arrays = random_arrays(33, Shape(samples=2, attention=False))
    assert_merges(analyze, save_arrays(tmp_path / "arrays", arrays), [], shards=4, seed=2)
