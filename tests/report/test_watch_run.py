"""--watch of a run that goes on: the page grows with it, says when its process died, and is whole when it ended."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import MOETAP

torch = pytest.importorskip("torch")
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
models = pytest.importorskip("moe_model")

if os.environ.get("MOETAP_SANITIZER"):
    pytest.skip("Python cannot load a library with a sanitizer", allow_module_level=True)

# A forward for each line that it reads.
HOST = """
import sys, torch
model = torch.jit.load(sys.argv[1])
for number, _ in enumerate(sys.stdin):
    with torch.no_grad():
        model(torch.arange(8).reshape(2, 4) + number % 4, torch.ones(2, 4, dtype=torch.long))
    print("done", flush=True)
"""
WAIT_S = 60


class Host:
    """A process that nobody changed, with moetap preloaded."""

    def __init__(self, model: pathlib.Path, run: pathlib.Path, **environment: str) -> None:
        library = pathlib.Path(os.environ["MOETAP_LIB_DIR"]) / "libmoetap.so"
        config = run.with_name(f"{run.name}{environment.get('RANK', '')}.json")
        config.write_text(json.dumps({"output_dir": str(run), "dump": "topk", "probe_tokens": 4}))
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"LD_PRELOAD": str(library), "MOETAP_CONFIG": str(config), "OMP_NUM_THREADS": "1"}
            | environment,
        )

    def forward(self, times: int = 1) -> None:
        for _ in range(times):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(timeout=WAIT_S) == 0


class Watch:
    def __init__(self, *arguments, cwd: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [MOETAP, "report", *arguments, "--watch"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        self.address = self.process.stdout.readline().strip()

    def data(self) -> dict:
        page = urllib.request.urlopen(self.address).read().decode()
        return json.loads(re.search(r'id="report-data" type="application/json">(.*?)</script>', page)[1])

    def until(self, holds) -> dict:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            data = self.data()
            if holds(data):
                return data
            time.sleep(0.1)
        raise AssertionError(f"the page does not follow: {json.dumps(data['runs'])[:600]}")

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=WAIT_S) == 0
        assert self.process.stderr.read() == ""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    torch.jit.script(models.MoeModel()).save(folder / "moe.pt")
    subprocess.run([MOETAP, "instrument", folder / "moe.pt", "-o", folder / "tap.pt"], check=True, capture_output=True)
    return folder / "tap.pt"


def layers_of(data: dict) -> list[dict]:
    return data["runs"][0]["components"]["language_model"]


def test_the_page_follows_a_run_to_its_end(model, tmp_path, report):
    host = Host(model, tmp_path / "run")
    host.forward(3)
    watch = Watch("run", cwd=tmp_path)
    data = watch.until(lambda data: data["runs"][0]["unfinished"]["forwards"] == 3)
    assert data["runs"][0]["unfinished"]["recording"] is True
    assert f"pid {host.process.pid} on " in data["runs"][0]["unfinished"]["ranks"][0]["owner"]
    assert [layer["tokens"] for layer in layers_of(data)] == [24, 24]
    assert all(sum(layer["selected_count"]) == 48 for layer in layers_of(data))
    assert len(data["probe"]["language_model"]) == 2
    host.forward(5)
    data = watch.until(lambda data: data["runs"][0]["unfinished"]["forwards"] == 8)
    assert [layer["tokens"] for layer in layers_of(data)] == [64, 64]
    assert "tokens" not in data and "analysis" not in data

    page = tmp_path / "page.html"
    done = report(tmp_path / "run", "-o", page)  # without --watch it says what to do
    assert done.returncode == 1 and "is still being recorded (pid" in done.stderr and "--watch" in done.stderr
    assert not page.exists()

    host.end()
    data = watch.until(lambda data: "unfinished" not in data["runs"][0])
    assert [layer["tokens"] for layer in layers_of(data)] == [64, 64]
    assert len(data["tokens"]["components"]["language_model"]["samples"]) == 12  # of 16
    assert "usage" in data["analysis"]["components"]["language_model"]
    summary = json.loads((tmp_path / "run" / "moetap" / "summary.json").read_text())["components"]["language_model"]
    for layer in layers_of(data):
        assert layer["selected_count"] == summary[layer["layer"]]["selected_count"]
        assert layer["entropy_all"] == summary[layer["layer"]]["entropy_all"]
    watch.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.json"]


def test_a_run_whose_process_is_killed_says_so_and_can_be_recovered(model, tmp_path):
    host = Host(model, tmp_path / "run")
    host.forward(4)
    watch = Watch("run", cwd=tmp_path)
    watch.until(lambda data: data["runs"][0]["unfinished"]["forwards"] == 4)
    journal = tmp_path / "run" / "moetap" / "journal" / "rank0" / "forwards.frames"
    host.process.kill()
    host.process.wait()
    left = journal.read_bytes()
    data = watch.until(lambda data: data["runs"][0]["unfinished"]["recording"] is False)
    assert data["runs"][0]["unfinished"]["forwards"] == 4
    assert [layer["tokens"] for layer in layers_of(data)] == [32, 32]
    assert journal.read_bytes() == left  # it was only read
    subprocess.run([MOETAP, "recover", tmp_path / "run"], check=True, capture_output=True)
    data = watch.until(lambda data: "unfinished" not in data["runs"][0])
    assert [layer["tokens"] for layer in layers_of(data)] == [32, 32]
    watch.end()


def test_ranks_that_go_on_are_shown_together(model, tmp_path, write_page):
    hosts = [Host(model, tmp_path / "run", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    hosts[0].forward(2)
    watch = Watch("run", cwd=tmp_path)
    data = watch.until(lambda data: data["runs"][0]["unfinished"]["forwards"] == 2)
    assert any("rank 1 of 2 did not finish" in line for line in data["runs"][0]["warnings"])
    hosts[1].forward(3)
    data = watch.until(lambda data: data["runs"][0]["unfinished"]["forwards"] == 5)
    assert [layer["tokens"] for layer in layers_of(data)] == [40, 40]
    hosts[1].end()
    watch.until(lambda data: [rank["done"] for rank in data["runs"][0]["unfinished"]["ranks"]] == [False, True])
    hosts[0].end()
    data = watch.until(lambda data: "unfinished" not in data["runs"][0])
    assert [layer["tokens"] for layer in layers_of(data)] == [40, 40]
    assert data["runs"][0]["warnings"] == {}
    watch.end()

    # The same ranks when they are done, without a merge; their numbers are those of the merged run.
    subprocess.run(
        [MOETAP, "merge", "--relabel", tmp_path / "run", "-o", tmp_path / "merged"], check=True, capture_output=True
    )

    def metrics(run: str) -> list[dict]:
        html = write_page(tmp_path / f"{run}.html", tmp_path / run).read_text()
        found = json.loads(re.search(r'id="report-data" type="application/json">(.*?)</script>', html)[1])
        assert "usage" in found["analysis"]["components"]["language_model"]
        return layers_of(found)

    assert metrics("run") == metrics("merged")
