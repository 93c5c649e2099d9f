"""examples/sharded_analysis: eight shards of a run, made by several workers, are the analysis of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples/sharded_analysis/analyze_in_shards.sh"
MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"
sys.path.append(str(REPOSITORY / "tests/cli/exports"))

from synthetic_dump import columns_of, routed, write_run, write_shard  # noqa: E402


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """40 samples of 1 to 9 tokens in ten forwards."""
    sample = [i for i in range(40) for _ in range(i % 9 + 1)]
    position = [place for i in range(40) for place in range(i % 9 + 1)]
    labels = columns_of(sample, position, [i // 4 for i in sample], token_id=[(7 * i) % 11 for i in range(len(sample))])
    layers = routed("0", len(sample), seed=0) | routed("1", len(sample), seed=1)
    write_shard(write_run(tmp_path / "run", ["0", "1"]), "language_model", 0, 0, labels | layers)
    return tmp_path / "run"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_eight_shards_by_workers_are_the_whole(run_dir, tmp_path):
    whole = subprocess.run([MOETAP, "analyze", run_dir, "-o", tmp_path / "whole"], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    done = subprocess.run(
        [SCRIPT, "8", tmp_path / "merged", run_dir],
        capture_output=True,
        text=True,
        env={**os.environ, "MOETAP": str(MOETAP), "WORKERS": "3"},
    )
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "run", "whole"]


def test_a_shard_that_fails_ends_the_script(tmp_path):
    done = subprocess.run(
        [SCRIPT, "3", tmp_path / "merged", tmp_path / "nothing"],
        capture_output=True,
        text=True,
        env={**os.environ, "MOETAP": str(MOETAP)},
    )
    assert done.returncode != 0 and "nothing" in done.stderr
    assert list(tmp_path.iterdir()) == []
