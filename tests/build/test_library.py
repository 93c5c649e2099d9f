"""What the shared libraries need from the process that loads them, and what they export to it."""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from installed_package import ROOT, run

LIBRARY = Path(os.environ["MOETAP_LIB_DIR"]) / "libmoetap.so"
KERNELS = Path(os.environ["MOETAP_LIB_DIR"]) / "libmoetap_cuda.so"

# Functions and data of the public classes that have code in the library.
PUBLIC_MEMBERS = {
    "Session": {
        *("Session", "~Session", "attach", "attach_description", "clear_label", "close", "config", "counters", "flush", "label", "log", "pause", "resume"),
        *("is_done", "resumed", "write_error"),
    },
    "Config": {
        *(
            "check",
            "from_json",
            "from_json_file",
            "from_json_text",
            "make_paths_absolute",
            "set",
            "set_from_text",
            "to_json",
        ),
        *("update_from_json", "update_from_json_file", "update_from_json_text"),
    },
    "RecordError": {"typeinfo for", "typeinfo name for"},
    "RecordSink": {"typeinfo for", "typeinfo name for"},
}


def dynamic_section(library: Path) -> str:
    return run("readelf", "-d", library)


def needed_libraries(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic_section(library))


def exported_names(library: Path) -> list[str]:
    """Demangled names, without arguments' types."""
    lines = subprocess.run(["nm", "-DC", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = (line.split(" ", 2)[2] for line in lines.splitlines())
    return [re.sub(r"(\[abi:\w+\])?\(.*", "", name) for name in names]


def functions_of_the_c_header() -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "plugin" / "moetap.h").read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(moetap_\w+)\([^;{]*\);", text))


def test_needs_the_cpu_side_of_libtorch_and_no_cuda_library():
    needed = needed_libraries(LIBRARY)
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if re.search(r"cuda|cudart|cublas|nvrtc|libtorch\.so", name)] == []


def test_build_tree_finds_its_own_libtorch():
    assert f"[{os.environ['MOETAP_TORCH_DIR']}/lib" in dynamic_section(LIBRARY)


def test_exports_the_public_face_and_nothing_else():
    functions = functions_of_the_c_header()
    assert {"moetap_open", "moetap_close"} <= functions
    members = {name: set() for name in PUBLIC_MEMBERS}
    others = []
    found = Counter(exported_names(LIBRARY))
    for name in found:
        member = re.fullmatch(r"((?:typeinfo|typeinfo name|vtable) for)? ?moetap::plugin::(\w+)(?:::(~?\w+))?", name)
        if member is not None and member[2] in members:
            members[member[2]].add(member[1] or member[3])
        elif name not in functions:
            others.append(name)
    assert others == []
    assert {name: all_of_it - {"vtable for"} for name, all_of_it in members.items()} == PUBLIC_MEMBERS
    assert functions <= set(found)
    # Constructors and destructors are listed twice (complete and base object), overloads once each.
    assert sum(found.values()) <= len(functions) + 2 * sum(len(names) for names in PUBLIC_MEMBERS.values())


@pytest.mark.skipif(not KERNELS.exists(), reason="the kernels were not built")
def test_the_library_of_kernels_exports_one_function():
    assert exported_names(KERNELS) == ["moetap_cuda_kernels"]
