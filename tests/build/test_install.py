"""The installed package: relocatable, and usable with find_package(moetap)."""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(host LANGUAGES CXX)
find_package(moetap REQUIRED)
add_executable(host host.cpp)
target_compile_features(host PRIVATE cxx_std_20)
target_link_libraries(host PRIVATE moetap::plugin)
set_target_properties(host PROPERTIES BUILD_RPATH "${MOETAP_TORCH_DIR}/lib")
"""

HOST = """
#include <plugin/config.h>

#include <iostream>

int main() {
  const auto config = moetap::plugin::Config::from_json_text(R"({"task": "digits"})", "text");
  std::cout << config.task << std::endl;
}
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", os.environ["MOETAP_BUILD_DIR"], "--prefix", path)
    return path


def test_installed_library_and_package_name_no_path_of_the_build_machine(prefix):
    library = prefix / "lib" / "libmoetap.so"
    assert "PATH" not in run("readelf", "-d", library)
    package = prefix / "lib" / "cmake" / "moetap"
    for file in package.iterdir():
        text = file.read_text()
        assert os.environ["MOETAP_TORCH_DIR"] not in text, file.name
        assert os.environ["MOETAP_BUILD_DIR"] not in text, file.name


def test_a_host_project_builds_against_the_package(prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "host.cpp").write_text(HOST)
    build = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DMOETAP_TORCH_DIR={os.environ['MOETAP_TORCH_DIR']}")  # fmt: skip
    run("cmake", "--build", build)
    assert run(build / "host") == "digits\n"
