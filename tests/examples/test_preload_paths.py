"""Relative paths of the environment and of its configuration file start where the library was loaded, wherever the host
goes afterwards."""

import json
import os

import pytest
from conftest import LIBRARY, is_whole, read_counters, read_log, run_python

# Goes to another directory before the first forward and to a third one after it.
HOST = """
import os, sys, torch
model, arguments = torch.jit.load(sys.argv[1]), torch.load(sys.argv[2])
for folder in sys.argv[3:]:
    os.chdir(folder)
    model(*arguments)
"""


@pytest.fixture
def folders(tmp_path):
    """The directory in which the host starts, and two that it goes to."""
    names = ["start", "second", "third"]
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def assert_recorded(done, folders) -> None:
    assert (done.status, done.errors) == (0, [])
    assert is_whole(folders[0] / "run")
    assert read_counters(folders[0] / "run")["forwards"] == 2
    assert [os.listdir(folder) for folder in folders[1:]] == [[], []]


def test_an_output_directory_in_the_environment(models, folders):
    done = run_python(
        HOST, models.instrumented, models.inputs[0], *folders[1:], cwd=folders[0], MOETAP_OUTPUT_DIR="run"
    )
    assert_recorded(done, folders)


def test_a_configuration_file_and_the_paths_in_it(models, folders):
    (folders[0] / "configs").mkdir()
    (folders[0] / "configs" / "moetap.json").write_text(json.dumps({"output_dir": "run", "samples": "samples.jsonl"}))
    (folders[0] / "samples.jsonl").write_text('{"target": "first"}\n{"target": "second"}\n')
    done = run_python(
        HOST, models.instrumented, models.inputs[0], *folders[1:], cwd=folders[0], MOETAP_CONFIG="configs/moetap.json"
    )
    assert_recorded(done, folders)
    assert [entry["target"] for entry in read_log(folders[0] / "run")][:2] == ["first", "second"]


def test_resume_finds_its_directory(models, folders):
    (folders[0] / "moetap.json").write_text(json.dumps({"output_dir": "run", "resume": True}))
    arguments = [models.instrumented, models.inputs[0], *folders[1:]]
    killed = run_python(
        HOST + "import time; time.sleep(2); os.kill(os.getpid(), 9)",
        *arguments,
        cwd=folders[0],
        MOETAP_CONFIG="moetap.json",
    )
    assert killed.status == -9
    resumed = run_python(HOST, *arguments, cwd=folders[0], MOETAP_CONFIG="moetap.json")
    assert (resumed.status, resumed.errors) == (0, [])
    assert is_whole(folders[0] / "run")
    assert read_counters(folders[0] / "run")["forwards"] > 2


def test_a_session_of_the_c_header(models, folders):
    code = """
import ctypes, sys
library = ctypes.CDLL(sys.argv.pop())
library.moetap_open.restype = ctypes.c_void_p
library.moetap_close.argtypes = [ctypes.c_void_p]
session = library.moetap_open(b'{"output_dir": "run"}')
"""
    arguments = [models.instrumented, models.inputs[0], *folders[1:], LIBRARY]
    done = run_python(
        code + HOST + "assert library.moetap_close(session) == 0", *arguments, preload=False, cwd=folders[0]
    )
    assert_recorded(done, folders)
