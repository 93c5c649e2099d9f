"""A damaged shard: each format exports what is whole and names what is not."""

import numpy as np
import pytest
from synthetic_dump import columns_of, routed, write_run, write_shard


@pytest.mark.parametrize("harm", ["truncated", "no header", "not there"])
@pytest.mark.parametrize("format", ["npy", "flame", "r3", "easysteer", "parquet"])
def test_what_is_whole_is_exported_and_what_is_not_is_named(tmp_path, moetap, format, harm):
    dump = write_run(tmp_path / "run", ["0"], dump="full")
    # Each shard holds one forward of one sample.
    shards = [
        columns_of([number] * 4, range(4), [number] * 4) | routed("0", 4, seed=number, full=True) for number in range(3)
    ]
    paths = [write_shard(dump, "language_model", number, 4 * number, shard) for number, shard in enumerate(shards)]
    if harm == "truncated":
        paths[1].write_bytes(paths[1].read_bytes()[:-10])
    elif harm == "no header":
        paths[1].write_bytes(b"\xff" * 100)
    else:
        paths[1].unlink()
    done = moetap("export", tmp_path / "run", "--to", format, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    if harm != "not there":
        assert paths[1].name in done.stderr
    assert "rows 4 to 7 of language_model are missing" in done.stderr
    if format == "r3":
        found = sorted(path.name for path in (tmp_path / "out").rglob("*.npy"))
        assert len(found) >= 2
        for path in (tmp_path / "out").rglob("*.npy"):
            ids = np.load(path)
            assert (
                any(np.array_equal(ids[:, 0], shards[number]["0.selected"]) for number in (0, 2)) or (ids == -1).all()
            )
