"""The program `moetap` of the wheel, with the LibTorch of the installed torch."""

import os
import sys
from pathlib import Path

import torch


def main() -> None:
    program = Path(__file__).resolve().parent / "bin" / "moetap"
    libraries = [str(program.parent.parent / "lib"), str(Path(torch.__file__).parent / "lib")]
    if before := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(before)
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    os.execv(program, [str(program), *sys.argv[1:]])
