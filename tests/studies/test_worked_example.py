"""The worked example of docs/studies.md: each command is run, and what the page quotes is what is printed."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / ".cache/qwen3_vl_moe_digits"
PAGE = ROOT / "docs/studies.md"
# The page's numbers are those of this model. Another machine may train another one: there the words must agree.
MODEL_OF_THE_PAGE = "a4104dcdde0c6735bc25279b34a4c49e3f7e92b0083b3d18c2cc09aaff869427"
RUN = (
    *("run", DEMO / "model.pt", "--inputs", DEMO / "inputs", "--samples", DEMO / "samples.jsonl", "-o", "runs/digits"),
    *("--dump", "topk", "--attention", "stats", "--attention-regions", "tokens:image=3"),
)


def steps() -> list[tuple[str, str]]:
    """Commands, and what the page says that they print."""
    text = PAGE.read_text()
    section = text[text.index("## Five questions") : text.index("## Inputs")]
    return re.findall(r"```sh\n(.*?)```\n```text\n(.*?)```", section, re.S)


def words(text: str) -> str:
    """Without what follows from the weights of the model: numbers, and which tokens and experts a table lists."""
    lines = [line for line in text.splitlines() if not re.match(r"layer \d+: |\d+,", line)]
    return "\n".join(re.sub(r'[\d.]+(e-\d+)?|\("[^"]*"\)|less|more', "#", line) for line in lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that looks like the repository after scripts/demo. Trains the model where it is not there yet."""
    subprocess.run(
        [sys.executable, ROOT / "examples/qwen3_vl_moe_digits/prepare.py"], check=True
    )  # once: a minute or two
    folder = tmp_path_factory.mktemp("demo")
    for name in (".cache", "examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    tools = folder / "bin"
    tools.mkdir()
    (tools / "moetap").symlink_to(Path(os.environ["MOETAP_BIN_DIR"]) / "moetap")
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python").chmod(0o755)
    subprocess.run([tools / "moetap", *RUN], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return folder


def test_the_page_shows_what_is_printed(place):
    is_of_the_page = hashlib.sha256((DEMO / "model.pt").read_bytes()).hexdigest() == MODEL_OF_THE_PAGE
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    found = steps()
    assert len(found) == 5
    for commands, quoted in found:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=place,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if is_of_the_page:
            assert done.stdout == quoted
        else:
            assert words(done.stdout) == words(quoted)


def test_the_words_of_a_line_are_compared_whatever_its_numbers():
    assert words("layer 1 sends 24 % to expert 7\n1,2,3") == words("layer 0 sends 2.5 % to expert 1")
    assert words("usage: 3 experts") != words("usage: 3 layers")
