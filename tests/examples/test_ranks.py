"""Ranks of one job (torchrun, gloo) record into one run directory, and are merged into the run of one process."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import LIBRARY, MOETAP, ROOT, run

HOST = ROOT / "tests" / "examples" / "rank_host.py"


def torchrun(processes: int, models, output_dir: Path, **config):
    config = {"output_dir": str(output_dir), "dump": "topk", **config}
    dies = config.pop("dies", -1)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, HOST, LIBRARY, models.instrumented, json.dumps(config), *models.inputs, *models.inputs]
    return run(command, preload=False, OMP_NUM_THREADS=1, DIES=dies)


def files_of(folder: Path) -> dict[str, str]:
    """Digests of the files, without times and the name of the directory."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == "sums.frames":
            continue
        data = path.read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(data)
            del manifest["times"], manifest["config"]["output_dir"], manifest["config"]["merge_wait"]
            data = json.dumps(manifest).encode()
        elif path.suffix == ".json":
            data = re.sub(rb'"time(_inference)?": ?("[^"]*"|[-0-9.e]+)', b"", data)
        files[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return files


def merge(folder: Path, output: Path, *options: str):
    return run([MOETAP, "merge", folder, "-o", output, *options], preload=False)


@pytest.fixture(scope="module")
def one_process(models, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("one") / "run"
    done = torchrun(1, models, folder)
    assert done.status == 0, done.errors
    return files_of(folder)


@pytest.mark.parametrize("processes", [2, 4])
def test_merged_ranks_are_the_run_of_one_process(processes, models, one_process, tmp_path):
    done = torchrun(processes, models, tmp_path / "run")
    assert done.status == 0, done.errors
    assert not (tmp_path / "run/merged").exists()
    done = merge(tmp_path / "run", tmp_path / "merged")
    assert done.status == 0, done.errors
    assert files_of(tmp_path / "merged") == one_process


@pytest.mark.parametrize("processes", [2, 4])
def test_rank_0_merges_when_it_closes(processes, models, one_process, tmp_path):
    done = torchrun(processes, models, tmp_path / "run", merge_wait=120)
    assert done.status == 0, done.errors
    assert files_of(tmp_path / "run/merged") == one_process


def test_a_rank_that_died_is_named_and_recovered(models, one_process, tmp_path):
    done = torchrun(2, models, tmp_path / "run", merge_wait=1, dies=1)
    assert done.status == 0, done.errors
    assert any("rank 1 did not finish within 1 s" in line for line in done.errors), done.errors
    assert not (tmp_path / "run/merged").exists()
    done = merge(tmp_path / "run", tmp_path / "merged")
    assert done.status == 1 and "rank 1 of 2 did not finish" in done.errors[0] and "moetap recover" in done.errors[0]
    some = merge(tmp_path / "run", tmp_path / "some", "--allow-missing")
    assert some.status == 0 and any("rank 1 of 2" in line for line in some.errors)
    assert run([MOETAP, "recover", tmp_path / "run"], preload=False).status == 0
    assert merge(tmp_path / "run", tmp_path / "merged").status == 0
    merged = files_of(tmp_path / "merged")
    manifest = "moetap/manifest.json"  # says that a part of it was recovered
    assert {**merged, manifest: ""} == {**one_process, manifest: ""}
