"""What a run that was killed, or that the disk failed, leaves; and how it is recovered or gone on with.

Fifty kills at random moments are in tests/plugin/run_kill_test.cpp, where they cost no start of the program.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import MOETAP, assert_succeeded
from moe_model import MoeModel, moe_inputs
from safetensors.torch import load_file, save_file

NUM_INPUTS = 600
SEQUENCES = 2


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """On a busy machine the threads of a tiny model wait for each other longer than it computes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def many_inputs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("many")
    files = [folder / f"{index:04}.safetensors" for index in range(NUM_INPUTS)]
    for index, file in enumerate(files):
        save_file(moe_inputs(SEQUENCES, 32, seed=index), file)
    return files


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key != "time_inference"}
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [without_times(entry) for entry in value]
    return value


def log_of(run: Path) -> list:
    return without_times(json.loads((run / "log_metrics.json").read_text())["logs"])


def dump_of(run: Path) -> dict[str, torch.Tensor]:
    columns: dict[str, list] = {}
    for shard in sorted(run.glob("moetap/dump/rank0/*.safetensors")):
        for name, rows in load_file(shard).items():
            columns.setdefault(f"{shard.stem.rsplit('-', 1)[0]}/{name}", []).append(rows)
    return {name: torch.cat(rows) for name, rows in columns.items()}


def summary_of(run: Path) -> dict:
    return json.loads((run / "moetap" / "summary.json").read_text())


def manifest_of(run: Path) -> dict:
    return json.loads((run / "moetap" / "manifest.json").read_text())


def assert_same_run(run: Path, other: Path) -> None:
    assert log_of(run) == log_of(other)
    assert summary_of(run) == summary_of(other)
    left, right = dump_of(run), dump_of(other)
    assert left.keys() == right.keys()
    for name, rows in left.items():
        assert torch.equal(rows, right[name]), name
    for name, values in load_file(run / "moetap" / "probe.safetensors").items():
        assert torch.equal(values, load_file(other / "moetap" / "probe.safetensors")[name])
    assert (run / "rank0_metric_eval_done.txt").exists()
    assert not (run / "moetap" / "journal").exists()


@pytest.fixture
def start_run(models, many_inputs):
    """Starts a run over all inputs and waits until it has recorded something."""
    programs = []

    def start(run: Path, *options: str, forwards: int = 20) -> subprocess.Popen:
        command = [MOETAP, "run", models / "moe.pt", "--inputs", many_inputs[0].parent, "-o", run, "--dump", "topk"]
        # Saved outputs make it slow enough to be met half-way, and show how far it is.
        program = subprocess.Popen(
            [*command, "--save-outputs", *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        programs.append(program)
        deadline = time.monotonic() + 60
        while not (run / "moetap" / "outputs" / f"{forwards:06}.safetensors").exists():
            assert time.monotonic() < deadline and program.poll() is None
            time.sleep(0.005)
        return program

    yield start
    for program in programs:
        if program.poll() is None:
            program.kill()
            program.wait()
        program.stderr.close()


@pytest.fixture
def killed_run(start_run, tmp_path) -> Path:
    run = tmp_path / "run"
    program = start_run(run)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert not (run / "log_metrics.json").exists()
    return run


def recorded_forwards(run: Path) -> int:
    return len(log_of(run)) // SEQUENCES


@pytest.fixture
def undisturbed(moetap, models, many_inputs, tmp_path):
    def run(forwards: int) -> Path:
        folder = tmp_path / f"undisturbed{forwards}"
        assert_succeeded(
            moetap("run", models / "moe.pt", "--inputs", *many_inputs[:forwards], "-o", folder, "--dump", "topk")
        )
        return folder

    return run


def test_a_killed_run_is_recovered(moetap, killed_run, undisturbed):
    done = moetap("recover", killed_run)
    assert_succeeded(done)
    forwards = recorded_forwards(killed_run)
    # The program was killed after its 21st saved output. It saves an output when the forward has ended; how many
    # forwards waited in the queue then depends on how busy the machine was.
    assert forwards >= 1
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{killed_run}: recovered {forwards} forwards with {SEQUENCES * forwards} log entries")
    assert "(moetap)" in lines[0]
    assert manifest_of(killed_run)["recovered"] is True
    assert manifest_of(killed_run)["sha256"] != ""
    assert_same_run(killed_run, undisturbed(forwards))
    again = moetap("recover", killed_run)
    assert_succeeded(again)
    assert again.stdout == f"{killed_run}: the run is whole, nothing to recover\n"


def test_a_killed_run_is_resumed(moetap, models, many_inputs, killed_run, undisturbed):
    resume = [
        "run",
        models / "moe.pt",
        "--inputs",
        many_inputs[0].parent,
        "-o",
        killed_run,
        "--dump",
        "topk",
        "--resume",
    ]
    done = moetap(*resume)
    assert_succeeded(done)
    assert f"of {NUM_INPUTS} forwards were recorded before" in done.stdout
    assert_same_run(killed_run, undisturbed(NUM_INPUTS))
    assert manifest_of(killed_run)["resumed"] == 1
    assert manifest_of(killed_run)["counters"]["forwards"] == NUM_INPUTS
    assert "other_models" not in manifest_of(killed_run)


def test_an_interrupted_run_is_resumed(moetap, models, many_inputs, start_run, undisturbed, tmp_path):
    run = tmp_path / "run"
    program = start_run(run)
    program.send_signal(signal.SIGINT)
    program.wait()
    assert program.returncode == 130
    assert 0 < recorded_forwards(run) < NUM_INPUTS
    resume = ["run", models / "moe.pt", "--inputs", many_inputs[0].parent, "-o", run, "--dump", "topk", "--resume"]
    assert_succeeded(moetap(*resume))
    assert_same_run(run, undisturbed(NUM_INPUTS))


def test_only_the_same_run_is_resumed(moetap, assert_fails, models, many_inputs, killed_run, tmp_path):
    folder = many_inputs[0].parent
    before = {path: path.read_bytes() for path in killed_run.rglob("*") if path.is_file()}
    torch.manual_seed(1)
    torch.jit.script(MoeModel()).save(tmp_path / "other.pt")
    rest = ["-o", killed_run, "--dump", "topk", "--resume"]
    assert_fails(1, "run", tmp_path / "other.pt", "--inputs", folder, *rest, parts=["SHA-256", "other.pt"])
    assert_fails(
        1, "run", models / "moe.pt", "--inputs", *many_inputs[1:], *rest, parts=["input 0", "0000.safetensors"]
    )
    assert_fails(
        2, "run", models / "moe.pt", "--inputs", folder, *rest, "--task", "mme", parts=["--resume", '"task"', "mme"][1:]
    )
    assert_fails(2, "run", models / "moe.pt", "--inputs", folder, *rest, "--overwrite", parts=["--overwrite"])
    assert_fails(1, "run", models / "moe.pt", "--inputs", folder, *rest[:-1], parts=["--resume", "moetap recover"])
    assert {path: path.read_bytes() for path in killed_run.rglob("*") if path.is_file()} == before
    assert_succeeded(moetap("recover", killed_run))


def test_resume_begins_where_there_is_no_run_and_refuses_a_finished_one(moetap, assert_fails, models, inputs, tmp_path):
    command = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--resume"]
    done = moetap(*command)
    assert_succeeded(done)
    assert "resumed" not in done.stdout
    assert_fails(1, *command, parts=["finished", "nothing to resume"])


def test_two_programs_do_not_write_one_directory(assert_fails, models, inputs, start_run, tmp_path):
    run = tmp_path / "run"
    program = start_run(run)
    program.send_signal(signal.SIGSTOP)
    assert program.poll() is None
    owner = f"(pid {program.pid} on "
    for command in (
        ["run", models / "moe.pt", "--inputs", inputs, "-o", run],
        ["run", models / "moe.pt", "--inputs", inputs, "-o", run, "--overwrite"],
        ["run", models / "moe.pt", "--inputs", inputs, "-o", run, "--resume"],
        ["recover", run],
    ):
        assert_fails(1, *command, parts=[str(run), "is written by another session", owner, "(moetap)"])
    program.send_signal(signal.SIGCONT)
    program.communicate()
    assert program.returncode == 0
    assert recorded_forwards(run) == NUM_INPUTS


def test_what_is_no_unfinished_run(moetap, assert_fails, tmp_path):
    assert_fails(1, "recover", tmp_path / "nowhere", parts=["nowhere", "no such directory"])
    assert_fails(1, "recover", tmp_path, parts=[str(tmp_path), "holds no run"])
    assert_fails(2, "recover", parts=["RUN_DIR"])
    journal = tmp_path / "moetap" / "journal" / "rank0"
    journal.mkdir(parents=True)
    (journal / "forwards.frames").write_bytes(os.urandom(5000))
    assert_fails(1, "recover", tmp_path, parts=[str(journal), "damaged"])
    assert "RUN_DIR" in moetap("recover", "--help").stdout


def test_a_directory_that_is_removed_during_the_run(start_run, tmp_path):
    run = tmp_path / "run"
    program = start_run(run)
    # Only the journal: the program writes outputs meanwhile, so removing all of `run` could fail.
    shutil.rmtree(run / "moetap" / "journal")
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert errors.count("\n") == 1, errors
    assert "was removed while the run goes on" in errors


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a tmpfs of `size` and returns its folder and a function that remounts it with other options."""
    mounted = []

    def mount(size: str):
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

        def remount(options: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

        return folder, remount

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def fill_disk(path):
    """Takes what room is left, byte by byte at last."""
    with path.open("wb", buffering=0) as file:
        for block in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(block)) > 0:
                    pass
            except OSError:
                continue


def copy_sparse(source, destination):
    """As `cp -r`: the columns of an open shard take only the room of the rows that are there."""
    subprocess.run(["cp", "-r", source, destination], check=True)


def test_a_full_disk(moetap, models, many_inputs, undisturbed, small_disk):
    disk, remount = small_disk("1m")
    run = disk / "run"
    # Forwards that wait for the writer thread are written at once. A batch that does not fit is lost: keep it small.
    arguments = ["run", models / "moe.pt", "--inputs", many_inputs[0].parent, "-o", run, "--dump", "topk"]
    done = moetap(*arguments, "--queue-bytes", 1 << 18)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "forwards finished" in done.stderr
    fill_disk(disk / "filler")
    again = moetap("recover", run)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1, again.stderr
    assert "No space left on device" in again.stderr
    remount("size=64m")
    assert_succeeded(moetap("recover", run))
    forwards = recorded_forwards(run)
    assert 10 < forwards < NUM_INPUTS
    assert_same_run(run, undisturbed(forwards))


def test_a_disk_that_is_read_only(moetap, assert_fails, models, inputs, killed_run, small_disk):
    disk, remount = small_disk("64m")
    copy_sparse(killed_run, disk / "run")
    remount("ro")
    assert_fails(1, "recover", disk / "run", parts=[str(disk / "run"), "Read-only file system"])
    assert_fails(
        1,
        "run",
        models / "moe.pt",
        "--inputs",
        inputs,
        "-o",
        disk / "other",
        parts=[str(disk), "Read-only file system"],
    )
    remount("rw")
    assert_succeeded(moetap("recover", disk / "run"))
    assert_succeeded(moetap("recover", killed_run))
    assert log_of(disk / "run") == log_of(killed_run)
