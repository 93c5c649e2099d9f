"""The page's own scripts and style: what they may not do."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "report").rglob("*.js"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    node = shutil.which("node")
    if node is None:
        pytest.skip("nodejs is not installed")
    done = subprocess.run([node, "--check", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
