"""The page's own scripts and style: what they may not do."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "report").rglob("*.js"))


def test_the_linter_finds_nothing():
    oxlint = shutil.which("oxlint", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if oxlint is None:
        pytest.skip("oxlint is not installed; scripts/setup installs it")
    done = subprocess.run([oxlint, "--deny-warnings", "report"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert f"on {len(SCRIPTS)} files" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_html_of_text_and_no_code_of_text(script):
    text = script.read_text()
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
    ):
        assert forbidden not in text or (forbidden, script.name) == ("fetch(", "watch.js"), forbidden
    assert text.startswith('"use strict";\n//')
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)


def test_every_script_is_in_the_page():
    listed = re.search(r"set\(scripts(.*?)\)", (ROOT / "report" / "CMakeLists.txt").read_text(), re.DOTALL)[1].split()
    assert sorted(listed) == sorted(str(path.relative_to(ROOT / "report")) for path in SCRIPTS)
