"""What is wrong is said in one line, and the host runs on."""

import shutil
import subprocess

import pytest
from conftest import LIBRARY, PLAIN_HOST, is_whole, read_counters, run, run_python


@pytest.fixture(scope="module")
def expected(models) -> str:
    return run([PLAIN_HOST, models.plain, 1, *models.inputs], preload=False).output


def assert_host_is_fine(models, expected: str, said: str, **environment) -> None:
    done = run([PLAIN_HOST, models.instrumented, 2, *models.inputs], **environment)
    assert done.status == 0
    assert done.output == expected
    assert len(done.errors) == 1, done.errors
    assert said in done.errors[0]
    assert done.errors[0].startswith("moetap: ")


def test_nothing_asks_to_record(models, expected):
    assert_host_is_fine(models, expected, "nothing records it: set MOETAP_OUTPUT_DIR or MOETAP_CONFIG")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "the configuration cannot be read"),
        ("", "not valid JSON"),
        ('{"output_dir": "x", "dumps": "topk"}', 'unknown key "dumps"'),
        ('{"output_dir": 3}', 'key "output_dir" must be text'),
        ("{}", "output_dir must name a directory"),
        ("[]", "the configuration must be a JSON object"),
    ],
)
def test_a_wrong_configuration(text, said, models, expected, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    else:
        path.mkdir()
    assert_host_is_fine(models, expected, said, MOETAP_CONFIG=path)


def test_the_environment_overrides_the_file(models, expected, tmp_path):
    (tmp_path / "config.json").write_text('{"output_dir": "nowhere/at/all"}')
    done = run(
        [PLAIN_HOST, models.instrumented, 1, *models.inputs],
        MOETAP_CONFIG=tmp_path / "config.json",
        MOETAP_OUTPUT_DIR=tmp_path / "run",
    )
    assert (done.status, done.output, done.errors) == (0, expected, [])
    assert is_whole(tmp_path / "run")


def test_a_directory_that_cannot_be_written(models, expected, tmp_path):
    (tmp_path / "file").write_text("")
    assert_host_is_fine(models, expected, "cannot write", MOETAP_OUTPUT_DIR=tmp_path / "file" / "run")
    done = run([PLAIN_HOST, models.instrumented, 1, *models.inputs], MOETAP_OUTPUT_DIR=tmp_path / "run")
    assert done.status == 0
    assert_host_is_fine(models, expected, "already holds a run", MOETAP_OUTPUT_DIR=tmp_path / "run")
    assert is_whole(tmp_path / "run")


def test_strict_throws_into_the_forward(models, tmp_path):
    (tmp_path / "config.json").write_text('{"output_dir": "/dev/null/run", "strict": true}')
    code = """
import sys, torch
try:
    torch.jit.load(sys.argv[1])(*torch.load(sys.argv[2]))
except RuntimeError as error:
    print("cannot write /dev/null/run" in str(error))
"""
    done = run_python(code, models.instrumented, models.inputs[0], MOETAP_CONFIG=tmp_path / "config.json")
    assert done.output == "True\n", done.errors


def test_the_library_loaded_twice(models, expected, tmp_path):
    copy = tmp_path / "libmoetap.so"
    shutil.copy(LIBRARY, copy)
    done = run(
        [PLAIN_HOST, models.instrumented, 1, *models.inputs],
        LD_PRELOAD=f"{LIBRARY}:{copy}",
        MOETAP_OUTPUT_DIR=tmp_path / "run",
    )
    assert (done.status, done.output) == (0, expected)
    assert done.errors == ["moetap: the library is loaded already, perhaps from another path; this copy stays idle"]
    assert read_counters(tmp_path / "run")["forwards"] == len(models.inputs)


def test_a_host_with_another_libtorch(models, expected, tmp_path):
    (tmp_path / "other.c").write_text(
        "#include <stdint.h>\nuint64_t aoti_torch_abi_version(void) { return (2ull << 56) | (10ull << 48); }\n"
    )
    other = tmp_path / "other.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", other, tmp_path / "other.c"], check=True)
    line = "built for LibTorch 2.11 and the process has LibTorch 2.10: it stays idle"
    plain = run([PLAIN_HOST, models.plain, 1, *models.inputs], LD_PRELOAD=f"{other}:{LIBRARY}")
    assert (plain.status, plain.output) == (0, expected)
    assert len(plain.errors) == 1
    assert line in plain.errors[0]
    instrumented = run([PLAIN_HOST, models.instrumented, 1, *models.inputs], LD_PRELOAD=f"{other}:{LIBRARY}")
    assert instrumented.status == 1
    assert line in instrumented.errors[0]
    assert any("Unknown builtin op: moetap::begin" in error for error in instrumented.errors)
