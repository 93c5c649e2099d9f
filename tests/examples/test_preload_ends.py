"""A run is done if its host ends with exit status 0. Otherwise it is unfinished and can be recovered."""

import subprocess

import pytest
from conftest import LIBRARY, MOETAP, ROOT, is_whole, read_counters, read_log, run, run_python

HOST = """
import _ctypes, atexit, ctypes, os, sys, threading, torch
library = ctypes.CDLL(sys.argv[1])
model = torch.jit.load(sys.argv[2])
arguments = torch.load(sys.argv[3])
for _ in range(3):
    model(*arguments)
"""
NUM_SAMPLES = 2  # of a forward


def run_host(ending: str, models, folder, **environment):
    return run_python(
        HOST + ending,
        LIBRARY,
        models.instrumented,
        models.inputs[0],
        preload=False,
        MOETAP_OUTPUT_DIR=folder,
        **environment,
    )


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "sys.exit(0)",
        "_ctypes.dlclose(library._handle); _ctypes.dlclose(library._handle); del model",
        "threading.Thread(target=lambda: [model(*arguments) for _ in range(50)]).start()",
        "ctypes.CDLL(None).quick_exit(0)",
    ],
    ids=["end", "exit", "dlclose", "thread", "quick_exit"],
)
def test_a_host_that_ends_well_leaves_a_whole_run(ending, models, tmp_path):
    done = run_host(ending, models, tmp_path / "run")
    assert done.status == 0, done.errors
    assert is_whole(tmp_path / "run")
    assert read_counters(tmp_path / "run")["forwards"] >= 3
    assert len(read_log(tmp_path / "run")) >= 3 * NUM_SAMPLES


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("raise RuntimeError('the host fails')", 1),
        ("sys.exit(3)", 3),
        ("sys.exit('a message')", 1),
        ("torch.jit.load('nothing.pt')", 1),
        ("ctypes.CDLL(None).exit(2)", 2),
    ],
    ids=["exception", "exit", "message", "error", "c_exit"],
)
def test_a_host_that_fails_leaves_an_unfinished_run(ending, status, models, tmp_path):
    folder = tmp_path / "run"
    done = run_host(ending, models, folder)
    assert done.status == status, done.errors
    said = [line for line in done.errors if line.startswith("moetap: ")]
    assert said == [
        f"moetap: {folder}: the process ended with exit status {status}, so the run is unfinished; complete its files "
        "with moetap recover, or go on with resume"
    ]
    assert_unfinished_and_recovered(folder)


@pytest.mark.parametrize(
    ("ending", "status"), [("os._exit(0)", 0), ("os.abort()", -6), ("os.kill(os.getpid(), 15)", -15)]
)
def test_a_host_that_ends_without_exit_leaves_an_unfinished_run(ending, status, models, tmp_path):
    # Nothing of ours runs then, so the forwards are given time to be written.
    done = run_host("import time; time.sleep(2); " + ending, models, tmp_path / "run")
    assert done.status == status, done.errors
    assert not (tmp_path / "run" / "log_metrics.json").exists()
    assert_unfinished_and_recovered(tmp_path / "run")


def assert_unfinished_and_recovered(folder) -> None:
    assert not (folder / "rank0_metric_eval_done.txt").exists()
    recovered = run([MOETAP, "recover", folder], preload=False)
    assert recovered.status == 0, recovered.errors
    assert is_whole(folder)
    assert len(read_log(folder)) == 3 * NUM_SAMPLES


def test_a_host_that_failed_goes_on(models, tmp_path):
    (tmp_path / "config.json").write_text('{"resume": true}')
    assert run_host("sys.exit(1)", models, tmp_path / "run", MOETAP_CONFIG=tmp_path / "config.json").status == 1
    assert run_host("pass", models, tmp_path / "run", MOETAP_CONFIG=tmp_path / "config.json").status == 0
    assert is_whole(tmp_path / "run")
    assert len(read_log(tmp_path / "run")) == 2 * 3 * NUM_SAMPLES


@pytest.fixture(scope="module")
def cpp_host(tmp_path_factory):
    """examples/plain_host, which ends with the exit status in HOST_RETURNS or HOST_EXITS."""
    folder = tmp_path_factory.mktemp("cpp_host")
    source = (ROOT / "examples" / "plain_host" / "plain_host.cpp").read_text()
    assert source.count("return 0;") == 1
    ending = """
    if (const char* status = std::getenv("HOST_EXITS")) std::exit(std::atoi(status));
    return std::atoi(std::getenv("HOST_RETURNS"));"""
    (folder / "host.cpp").write_text(source.replace("return 0;", ending))
    dynamic_section = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    torch_lib = dynamic_section.split("Library runpath: [")[1].split("]")[0].split(":")[0]
    options = ["-std=c++20", "-pthread", f"-isystem{torch_lib}/../include", f"-L{torch_lib}", f"-Wl,-rpath,{torch_lib}"]
    libraries = ["-ltorch_cpu", "-lc10"]
    subprocess.run(["g++", *options, "-o", folder / "host", folder / "host.cpp", *libraries], check=True)
    return folder / "host"


@pytest.mark.parametrize(("ending", "status"), [("HOST_RETURNS", 0), ("HOST_RETURNS", 1), ("HOST_EXITS", 2)])
def test_a_cpp_host_says_with_its_exit_status_whether_the_run_is_done(ending, status, cpp_host, models, tmp_path):
    environment = {"MOETAP_OUTPUT_DIR": tmp_path / "run", ending: status}
    done = run([cpp_host, models.instrumented, 1, *models.inputs], **environment)
    assert done.status == status
    assert is_whole(tmp_path / "run") == (status == 0)
    assert len(read_log(tmp_path / "run")) == 8
