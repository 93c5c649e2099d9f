"""A recorded run for the exports: two layers, padding, full dump; `dump_of` reads its shards as NumPy does."""

from pathlib import Path

import numpy as np
import pytest
from recorded_run import CATEGORIES, recorded  # noqa: F401 (CATEGORIES for tests, recorded is a fixture)
from safetensors.numpy import load_file


def dump_of(run: Path, series: str = "language_model", rank: int = 0) -> dict[str, np.ndarray]:
    shards = [load_file(path) for path in sorted((run / f"moetap/dump/rank{rank}").glob(f"{series}-*.safetensors"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


@pytest.fixture
def export(moetap, tmp_path):
    """Exports a run; gives the path of the export. Nothing but `notices` is said on stderr."""

    def run(run_dir: Path, *options: str, notices: tuple[str, ...] = ()) -> Path:
        path = tmp_path / f"export{len(list(tmp_path.iterdir()))}"
        done = moetap("export", run_dir, *options, "-o", path)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == len(notices), done.stderr
        for line, part in zip(lines, notices, strict=True):
            assert part in line
        return path

    return run
