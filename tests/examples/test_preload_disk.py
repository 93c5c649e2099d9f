"""Disks that fail under an unchanged host: it finishes, one line says why, and what was written can be read."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import LIBRARY, MOETAP, PLAIN_HOST, is_whole, read_counters, read_log, run

REPEATS = 400


@pytest.fixture(scope="module")
def inputs(models) -> list[Path]:
    return models.inputs * REPEATS


@pytest.fixture(scope="module")
def expected(models, inputs) -> str:
    return run([PLAIN_HOST, models.plain, 1, *inputs], preload=False).output


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def assert_one_error(done, expected: str, said: str) -> None:
    assert done.status == 0
    assert done.output == expected
    assert len(done.errors) == 1, done.errors
    assert said in done.errors[0]
    assert "nothing more is recorded, the model runs on" in done.errors[0]


def test_a_full_disk(models, inputs, expected, small_disk):
    done = run([PLAIN_HOST, models.instrumented, 1, *inputs], MOETAP_OUTPUT_DIR=small_disk / "run")
    assert_one_error(done, expected, "No space left on device")
    refused = run([MOETAP, "recover", small_disk / "run"], preload=False)
    assert refused.status == 1, "the disk is still full"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    recovered = run([MOETAP, "recover", small_disk / "run"], preload=False)
    assert recovered.status == 0, recovered.errors
    counters = read_counters(small_disk / "run")
    recorded = counters["forwards"] - counters["unwritten"]
    assert 0 < recorded < len(inputs)
    assert is_whole(small_disk / "run")
    samples_of_four = 8  # in the four inputs that repeat
    assert len(read_log(small_disk / "run")) == pytest.approx(recorded * samples_of_four / 4, abs=samples_of_four)


def test_a_read_only_disk(models, inputs, expected, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = run([PLAIN_HOST, models.instrumented, 1, *inputs], MOETAP_OUTPUT_DIR=small_disk / "run")
    assert (done.status, done.output) == (0, expected)
    assert len(done.errors) == 1
    assert "Read-only file system; the model runs on and is not recorded" in done.errors[0]


def test_the_directory_is_removed_during_the_run(models, inputs, expected, tmp_path):
    folder = tmp_path / "run"
    variables = os.environ | {"LD_PRELOAD": str(LIBRARY), "MOETAP_OUTPUT_DIR": str(folder)}
    command = [str(part) for part in (PLAIN_HOST, models.instrumented, 1, *inputs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as host:
        journal = folder / "moetap" / "journal" / "rank0" / "forwards.frames"
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.stat().st_size < 4096:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        shutil.rmtree(folder)
        output, errors = host.communicate(timeout=120)
    assert host.returncode == 0
    assert output == expected
    lines = errors.splitlines()
    assert len(lines) == 1, lines
    assert "nothing more is recorded, the model runs on" in lines[0]
    assert not folder.exists()
