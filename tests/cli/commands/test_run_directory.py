"""Where a run may write, and what it does with what lies there."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import MOETAP

SPEC = json.dumps([{"module": "layers\\.1\\.gate", "scoring": "softmax"}])


@pytest.fixture
def arguments(models, inputs):
    return ["run", models / "moe.pt", "--inputs", inputs / "0.safetensors"]


def test_below_a_file(assert_fails, arguments, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert_fails(1, *arguments, "-o", tmp_path / "file" / "run", parts=[str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file(assert_fails, arguments, tmp_path):
    (tmp_path / "run").write_text("kept")
    assert_fails(1, *arguments, "-o", tmp_path / "run", parts=[str(tmp_path / "run")])
    assert (tmp_path / "run").read_text() == "kept"


def test_where_the_system_allows_no_files(assert_fails, arguments):
    # Permission bits do not stop root, but /proc does.
    assert_fails(1, *arguments, "-o", "/proc/moetap-run", parts=["/proc/moetap-run"])


def test_an_existing_run_is_refused_and_stays(moetap, assert_fails, arguments, tmp_path):
    run = tmp_path / "run"
    assert moetap(*arguments, "-o", run).returncode == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_fails(1, *arguments, "-o", run, parts=[str(run), "--overwrite"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_overwrite_replaces_all_of_the_existing_run_and_nothing_else(moetap, models, inputs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.md").write_text("mine")
    first = [
        "run",
        models / "moe.pt",
        "--inputs",
        inputs,
        "-o",
        run,
        "--task",
        "first",
        "--save-outputs",
        "--dump",
        "topk",
    ]
    assert moetap(*first).returncode == 0
    second = ["run", models / "moe.pt", "--inputs", inputs / "0.safetensors", "-o", run, "--overwrite"]
    assert moetap(*second).returncode == 0
    assert not (run / "first.json").exists()
    assert not (run / "moetap" / "outputs").exists()
    assert not list(run.glob("moetap/dump/**/*.safetensors"))
    assert len(json.loads((run / "log_metrics.json").read_text())["logs"]) == 2
    assert (run / "notes.md").read_text() == "mine"


def test_a_run_that_fails_leaves_an_existing_run_alone(moetap, assert_fails, arguments, tmp_path):
    run = tmp_path / "run"
    assert moetap(*arguments, "-o", run).returncode == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_fails(2, *arguments, "-o", run, "--overwrite", "--method", "none", parts=["none"])
    nowhere = tmp_path / "nowhere.jsonl"
    assert_fails(1, *arguments, "-o", run, "--overwrite", "--samples", nowhere, parts=[str(nowhere)])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


class Gate:
    """A hook spec (a FIFO) that makes the program wait when it opens it for the second time.

    The first time is when the program reads its options. At the second, it has looked at the run directory and has not
    opened the session yet.
    """

    def __init__(self, path: Path):
        self.path = path
        os.mkfifo(path)

    def _open_for(self, program: subprocess.Popen) -> int:
        deadline = time.monotonic() + 60
        while True:
            try:
                return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody has it open for reading yet
                assert time.monotonic() < deadline and program.poll() is None
                time.sleep(0.005)

    def wait_for(self, program: subprocess.Popen) -> None:
        first = self._open_for(program)
        self.path.unlink()
        os.mkfifo(self.path)
        os.write(first, SPEC.encode())
        os.close(first)
        self._second = self._open_for(program)

    def let_go(self, later_spec: str = SPEC) -> None:
        """Lets the program go on. `later_spec` is what it reads from the third time on."""
        self.path.unlink()
        self.path.write_text(later_spec)
        os.write(self._second, SPEC.encode())
        os.close(self._second)


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "spec.json")


@pytest.fixture
def start():
    programs = []

    def run(*arguments, **environment: str) -> subprocess.Popen:
        programs.append(
            subprocess.Popen(
                [MOETAP, *map(str, arguments)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
        )
        return programs[-1]

    yield run
    for program in programs:
        if program.poll() is None:
            program.kill()
            program.wait()
        program.stderr.close()


def state(thread: Path) -> str:
    """State of a thread, given by its folder in /proc. T: stopped."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


def saved_outputs(run: Path) -> set[str]:
    """Names of the outputs that any rank has saved; folders may vanish meanwhile, as with --overwrite."""
    return {name for folder, _, names in os.walk(run / "moetap") if folder.endswith("outputs") for name in names}


@pytest.fixture
def stopped_run(start, models, inputs):
    """Starts a long run and stops it (SIGSTOP) when it has begun to record."""

    def begin(run: Path, *options, **environment: str) -> subprocess.Popen:
        files = [inputs / "0.safetensors"] * 1000
        command = ["run", models / "moe.pt", "--inputs", *files, "-o", run, "--save-outputs", *options]
        program = start(*command, **environment)
        deadline = time.monotonic() + 60
        while "000003.safetensors" not in saved_outputs(run):
            assert time.monotonic() < deadline and program.poll() is None
            time.sleep(0.001)
        program.send_signal(signal.SIGSTOP)
        # A thread in the middle of a write stops only after it.
        while any(state(thread) != "T" for thread in Path(f"/proc/{program.pid}/task").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return program

    return begin


def assert_ends_whole(program: subprocess.Popen, run: Path) -> None:
    assert program.poll() is None, "it was over before it was disturbed"
    program.send_signal(signal.SIGCONT)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert len(json.loads((run / "log_metrics.json").read_text())["logs"]) == 2000
    assert (run / "rank0_metric_eval_done.txt").exists()
    assert len(list((run / "moetap" / "outputs").iterdir())) == 1000
    assert not (run / "moetap" / "journal").exists()


def assert_refused(program: subprocess.Popen, owner: subprocess.Popen) -> None:
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1, errors
    assert errors.count("\n") == 1, errors
    assert f"is written by another session (pid {owner.pid} on " in errors


def test_of_two_that_begin_at_once_one_is_refused_and_leaves_the_other_alone(
    start, stopped_run, gate, arguments, tmp_path
):
    run = tmp_path / "run"
    late = start(*arguments, "-o", run, "--hooks", gate.path)
    gate.wait_for(late)
    first = stopped_run(run)
    gate.let_go()
    assert_refused(late, first)
    assert_ends_whole(first, run)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_session_that_cannot_be_opened_leaves_no_folders(assert_fails, arguments, tmp_path, there_before):
    run = tmp_path / "run"
    if there_before:
        run.mkdir()
    # A line that is no JSON is found when the session opens.
    (tmp_path / "samples.jsonl").write_text("no json\n")
    assert_fails(1, *arguments, "-o", run, "--samples", tmp_path / "samples.jsonl", parts=["samples.jsonl"])
    assert run.exists() == there_before
    assert not there_before or list(run.iterdir()) == []


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_overwrite_leaves_a_run_that_began_meanwhile(moetap, start, stopped_run, gate, arguments, tmp_path):
    run = tmp_path / "run"
    assert moetap(*arguments, "-o", run).returncode == 0
    late = start(*arguments, "-o", run, "--overwrite", "--hooks", gate.path)
    gate.wait_for(late)
    first = stopped_run(run, "--overwrite")
    before = files_of(run)
    gate.let_go()
    assert_refused(late, first)
    assert files_of(run) == before
    assert_ends_whole(first, run)


def test_overwrite_leaves_the_journal_of_a_living_rank(moetap, assert_fails, stopped_run, arguments, tmp_path):
    run = tmp_path / "run"
    assert moetap(*arguments, "-o", run).returncode == 0
    first = stopped_run(run, RANK="1", WORLD_SIZE="2")
    before = files_of(run)
    assert_fails(1, *arguments, "-o", run, "--overwrite", parts=[f"is written by another session (pid {first.pid} on "])
    assert files_of(run) == before
    first.kill()
    first.wait()
    assert moetap(*arguments, "-o", run, "--overwrite").returncode == 0
    assert not (run / "moetap" / "journal").exists()
    assert not (run / "moetap" / "rank1").exists()


def test_overwrite_replaces_a_run_that_was_killed(moetap, stopped_run, arguments, tmp_path):
    run = tmp_path / "run"
    killed = stopped_run(run)
    killed.kill()
    killed.wait()
    assert moetap(*arguments, "-o", run, "--overwrite").returncode == 0
    assert len(json.loads((run / "log_metrics.json").read_text())["logs"]) == 2
    assert not (run / "moetap" / "journal").exists()
    assert not (run / "moetap" / "outputs").exists()


def test_a_resumed_run_that_fails_before_its_first_forward_stays_unfinished(
    moetap, start, stopped_run, assert_fails, models, inputs, tmp_path
):
    run = tmp_path / "run"
    spec = tmp_path / "first.json"
    spec.write_text(SPEC)
    killed = stopped_run(run, "--hooks", spec)
    killed.kill()
    killed.wait()
    files = [inputs / "0.safetensors"] * 1000
    resume = ["run", models / "moe.pt", "--inputs", *files, "-o", run, "--save-outputs", "--resume"]

    def assert_unfinished() -> None:
        assert not (run / "rank0_metric_eval_done.txt").exists()
        assert (run / "moetap" / "journal" / "rank0" / "forwards.frames").exists()

    # The list of inputs cannot be read.
    input_list = run / "moetap" / "journal" / "rank0" / "inputs.txt"
    input_list.rename(tmp_path / "inputs.txt")
    input_list.mkdir()
    assert_fails(1, *resume, "--hooks", spec, parts=["inputs.txt", "Is a directory"])
    assert_unfinished()
    input_list.rmdir()
    (tmp_path / "inputs.txt").rename(input_list)

    # The model cannot be attached: its hook spec is another than it was a moment ago.
    spec.unlink()
    gate_at_spec = Gate(spec)
    program = start(*resume, "--hooks", spec)
    gate_at_spec.wait_for(program)
    gate_at_spec.let_go(later_spec=json.dumps([{"module": "nowhere", "skip": True}]))
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 2, errors
    assert "nowhere" in errors
    assert_unfinished()

    spec.write_text(SPEC)
    assert moetap(*resume, "--hooks", spec).returncode == 0
    assert len(json.loads((run / "log_metrics.json").read_text())["logs"]) == 2000
