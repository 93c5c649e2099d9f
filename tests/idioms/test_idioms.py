"""Idioms of public MoE code: moetap captures each as its eager model says, and finds nothing in the look-alikes.

`refused.txt` lists the idioms that moetap refuses by name, with the reason that it must give. Whatever else disagrees
is a failure, and so is an idiom that is listed there and captured by now.

`faults.txt` lists what moetap is known to do wrong, with what is said against it: it must say so still.

Ninety-seven idioms were written by someone who knew public code and not how moetap finds routers. At first 61 were
right, 3 refused with a true reason, 13 with one that was not, 9 lost, 11 wrong without a word. Eighty of them stand in
adapters, choices_of_layers, gate_makes, kinds_of_tokens, lineages, lineages_deepspeed, pruned, samples_and_tasks and
second_looks; the others were right, and as plain as idioms of other files.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MOETAP = pathlib.Path(os.environ.get("MOETAP_PROGRAM", ROOT / "build/release/bin/moetap"))
VERDICT = re.compile(r"^(?P<word>ok|FAIL)\s+(?P<name>\S+)\s+case\s+routers \d+/\d+(?P<rest>.*)$")


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=1700)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pathlib.Path:
    """A folder of cases. Each oracle is proved while it is written."""
    directory = tmp_path_factory.mktemp("idioms")
    done = run(HERE / "export.py", directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def verdicts(cases) -> dict[str, str]:
    """What scripts/conformance says against each case; empty where it agrees."""
    if not MOETAP.is_file():
        pytest.skip(f"no program at '{MOETAP}': build it, or name it in MOETAP_PROGRAM")
    done = run(ROOT / "scripts/conformance", "--moetap", MOETAP, "--no-outputs", "--jobs", "2", cases)
    lines = [match for match in map(VERDICT.match, done.stdout.splitlines()) if match]
    assert len(lines) == len(list(cases.iterdir())), done.stderr
    return {match["name"]: "" if match["word"] == "ok" else match["rest"].split("| ", 1)[1] for match in lines}


def listed(file: str) -> dict[str, str]:
    """Names of idioms, and what must be said of each."""
    lines = (HERE / file).read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def refused() -> dict[str, str]:
    return listed("refused.txt")


@pytest.fixture(scope="module")
def faults() -> dict[str, str]:
    return listed("faults.txt")


def test_there_are_idioms_and_look_alikes(cases):
    look_alikes = [path for path in cases.iterdir() if not (path / "oracle.safetensors").is_file()]
    assert len(list(cases.iterdir())) - len(look_alikes) >= 110
    assert len(look_alikes) >= 25


def test_what_is_captured_agrees_with_the_eager_models(verdicts, refused, faults):
    known = refused | faults
    wrong = {name: problem for name, problem in verdicts.items() if problem and name not in known}
    assert not wrong, "\n".join(f"{name}: {problem}" for name, problem in wrong.items())


def test_what_is_refused_is_refused_by_name(verdicts, refused):
    assert set(refused) <= set(verdicts)
    other = {
        name: verdicts[name] or "agrees: take it out of refused.txt"
        for name, reason in refused.items()
        if not verdicts[name].startswith("no router found") or reason not in verdicts[name]
    }
    assert not other, "\n".join(f"{name}: {problem}" for name, problem in other.items())


def test_known_faults_are_those_that_are_listed(verdicts, faults):
    assert set(faults) <= set(verdicts)
    other = {
        name: verdicts[name] or "agrees: take it out of faults.txt"
        for name, problem in faults.items()
        if problem not in verdicts[name]
    }
    assert not other, "\n".join(f"{name}: {problem}" for name, problem in other.items())
