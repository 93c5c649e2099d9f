"""What libmoetap.so asks of the process that loads it."""

import os
import re
import subprocess
from pathlib import Path

LIBRARY = Path(os.environ["MOETAP_LIB_DIR"]) / "libmoetap.so"


def dynamic_section(library: Path) -> str:
    return subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout


def needed_libraries(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic_section(library))


def test_needs_the_cpu_side_of_libtorch_and_no_cuda_library():
    needed = needed_libraries(LIBRARY)
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if re.search(r"cuda|cudart|cublas|nvrtc|libtorch\.so", name)] == []


def test_build_tree_finds_its_own_libtorch():
    assert f"[{os.environ['MOETAP_TORCH_DIR']}/lib" in dynamic_section(LIBRARY)
