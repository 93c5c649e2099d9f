"""Finds libmoetap.so and loads its operators into this process."""

import os
from pathlib import Path

import torch


def library_path() -> Path:
    """The library that this package loads: MOETAP_LIBRARY, else the one in the package, else that of a build tree."""
    named = os.environ.get("MOETAP_LIBRARY")
    if named:
        return Path(named)
    package = Path(__file__).resolve().parent
    in_package = package / "lib" / "libmoetap.so"
    in_tree = package.parent.parent / "build" / "release" / "lib" / "libmoetap.so"
    return in_tree if not in_package.exists() and in_tree.exists() else in_package


def _is_loaded() -> bool:
    try:
        torch.ops.moetap.observe  # noqa: B018
    except AttributeError:
        return False
    return True


def load_library() -> None:
    """Does nothing where the library is loaded already, as by LD_PRELOAD. Raises ImportError."""
    if _is_loaded():
        return
    path = library_path()
    if not path.exists():
        raise ImportError(f"moetap: {path} does not exist; build moetap, or set MOETAP_LIBRARY to libmoetap.so")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(f"moetap: {path} cannot be loaded into torch {torch.__version__}: {error}") from None
    if not _is_loaded():
        raise ImportError(f"moetap: {path} does not serve torch {torch.__version__}; its line on stderr says why")
