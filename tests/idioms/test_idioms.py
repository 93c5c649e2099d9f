"""Idioms of public MoE code: moetap captures each as its eager model says, and finds nothing in the look-alikes."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOETAP = pathlib.Path(os.environ.get("MOETAP_PROGRAM", ROOT / "build/release/bin/moetap"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pathlib.Path:
    """A folder of cases. Each oracle is proved while it is written."""
    directory = tmp_path_factory.mktemp("idioms")
    done = subprocess.run(
        [sys.executable, ROOT / "tests/idioms/export.py", directory], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return directory


def test_every_kind_of_case_is_there(cases):
    folders = [path for path in cases.iterdir() if (path / "expect.json").is_file()]
    look_alikes = [path for path in folders if not (path / "oracle.safetensors").is_file()]
    assert len(folders) - len(look_alikes) >= 110
    assert len(look_alikes) >= 25


def test_the_program_agrees_with_the_eager_models(cases):
    if not MOETAP.is_file():
        pytest.skip(f"no program at '{MOETAP}': build it, or name it in MOETAP_PROGRAM")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/conformance", "--moetap", MOETAP, "--no-outputs", "--jobs", "2", cases],
        capture_output=True,
        text=True,
        timeout=900,
    )
    wrong = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 0 and not wrong, "\n".join(wrong) or done.stderr
