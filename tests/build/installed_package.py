"""Builds projects against the package that `cmake --install` made."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = os.environ["MOETAP_TORCH_DIR"]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def build_project(prefix: Path, source: Path, build: Path) -> None:
    torch = f"-DMOETAP_TORCH_DIR={TORCH}"
    run("cmake", "-G", "Ninja", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", torch)
    run("cmake", "--build", build)
