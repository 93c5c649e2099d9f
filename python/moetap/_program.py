"""The program `moetap` of the wheel, with the LibTorch of the torch that is installed."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    package = Path(__file__).resolve().parent
    program = package / "bin" / "moetap"
    # LibTorch, and Arrow for Parquet.
    torch, pyarrow = (Path(find_spec(name).origin).parent for name in ("torch", "pyarrow"))
    libraries = [str(package / "lib"), str(torch / "lib"), str(pyarrow)]
    if before := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(before)
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    os.execv(program, [str(program), *sys.argv[1:]])
