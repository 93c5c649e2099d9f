"""The program `moetap` of the wheel, with the LibTorch of the torch that is installed."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    package = Path(__file__).resolve().parent
    program = package / "bin" / "moetap"
    # LibTorch, and Arrow for Parquet.
    found = {name: find_spec(name) for name in ("torch", "pyarrow")}
    if missing := [name for name, spec in found.items() if spec is None]:
        sys.exit(f"moetap: the Python package {missing[0]} is not installed")
    torch, pyarrow = (Path(spec.origin).parent for spec in found.values())
    libraries = [str(package / "lib"), str(torch / "lib"), str(pyarrow)]
    if before := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(before)
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    os.execv(program, [str(program), *sys.argv[1:]])
