"""A run goes on only with the inputs that it was begun with."""

import shutil

import pytest
from conftest import assert_succeeded
from moe_model import moe_inputs
from safetensors.torch import save_file


@pytest.fixture
def unfinished(moetap, models, tmp_path):
    """Directory and files of an unfinished run of three inputs: the second failed, and has been repaired since."""
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for index, file in enumerate(files):
        save_file(moe_inputs(1, 4 + index, seed=index), file)
    good = files[1].read_bytes()
    wrong = moe_inputs(1, 5, seed=1)
    save_file({**wrong, "input_ids": wrong["input_ids"] + 1000}, files[1])
    run = tmp_path / "run"
    done = moetap("run", models / "moe.pt", "--inputs", *files, "-o", run)
    assert done.returncode == 1
    assert "1 of 3 forwards finished" in done.stderr
    assert len(good) == files[1].stat().st_size
    files[1].write_bytes(good)
    return run, files


def test_the_same_inputs_go_on(moetap, models, unfinished, tmp_path):
    run, files = unfinished
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in files:
        shutil.copy(file, elsewhere)
    done = moetap("run", models / "moe.pt", "--inputs", elsewhere, "-o", run, "--resume")
    assert_succeeded(done)
    assert "resumed: 1 of 3 forwards were recorded before" in done.stdout


def test_other_inputs_are_named(assert_fails, models, unfinished, tmp_path):
    run, files = unfinished
    more, longer = tmp_path / "more.safetensors", tmp_path / "longer" / files[2].name
    save_file(moe_inputs(1, 3, seed=5), more)
    longer.parent.mkdir()
    save_file(moe_inputs(1, 20, seed=5), longer)
    for inputs, parts in [
        ([*files, more], ["input 3 is more.safetensors", "begun with 3 inputs"]),
        (files[:2], ["input 2 is missing", "begun with 2.safetensors"]),
        ([files[1], files[0], files[2]], ["input 0 is 1.safetensors", "begun with 0.safetensors"]),
        ([*files[:2], longer], ["input 2 is 2.safetensors", "bytes"]),
    ]:
        assert_fails(
            1, "run", models / "moe.pt", "--inputs", *inputs, "-o", run, "--resume", parts=["--resume", *parts]
        )
