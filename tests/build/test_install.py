"""The installed package: relocatable, and usable with find_package(moetap)."""

import os
from pathlib import Path

from installed_package import TORCH, build_project, run

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

C_HOST = """
#include <moetap.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  char config[512];
  int64_t samples[] = {0, 1};
  moetap_counters counters = {0};
  moetap_session* session;
  if (argc != 2 || moetap_abi_version() != MOETAP_ABI_VERSION) return 1;
  if (moetap_open("{}") != NULL || strlen(moetap_last_error()) == 0) return 2;
  snprintf(config, sizeof(config), "{\\"output_dir\\": \\"%s\\"}", argv[1]);
  session = moetap_open(config);
  counters.struct_size = sizeof(counters);
  if (session == NULL || moetap_label(session, samples, 2, 0) || moetap_log(session, "0", "loss", 0.5) ||
      moetap_clear_label(session) || moetap_flush(session) || moetap_get_counters(session, &counters)) {
    puts(moetap_last_error());
    return 3;
  }
  printf("%s %d\\n", moetap_version(), (int)counters.forwards);
  return moetap_close(session);
}
"""

LOADING_HOST = """
int main() {}
"""


def test_installed_library_and_package_name_no_path_of_the_build_machine(prefix):
    library = prefix / "lib" / "libmoetap.so"
    assert "PATH" not in run("readelf", "-d", library)
    package = prefix / "lib" / "cmake" / "moetap"
    for file in package.iterdir():
        text = file.read_text()
        assert TORCH not in text, file.name
        assert os.environ["MOETAP_BUILD_DIR"] not in text, file.name


def build_host(prefix: Path, folder: Path, source: str) -> Path:
    (folder / "CMakeLists.txt").write_text(PROJECT)
    (folder / "host.cpp").write_text(source)
    build_project(prefix, folder, folder / "build")
    return folder / "build" / "host"


def test_a_host_project_builds_against_the_package(prefix, tmp_path):
    assert run(build_host(prefix, tmp_path, HOST)) == "digits\n"


def test_a_host_that_uses_no_symbol_of_moetap_has_its_operators(prefix, tmp_path):
    host = build_host(prefix, tmp_path, LOADING_HOST)
    assert "[libmoetap.so]" in run("readelf", "-d", host)
    run(host)


def test_a_host_in_c_builds_against_the_header(prefix, tmp_path):
    (tmp_path / "host.c").write_text(C_HOST)
    torch = f"{TORCH}/lib"
    warnings = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    paths = [f"-I{prefix}/include/moetap", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib:{torch}", f"-Wl,-rpath-link,{torch}"]
    # The library names no LibTorch of its own: a host without one names it first.
    libraries = ["-Wl,--no-as-needed", f"-L{torch}", "-ltorch_cpu", "-lc10", "-lmoetap"]
    run("gcc", *warnings, "-o", tmp_path / "host", tmp_path / "host.c", *paths, *libraries)
    assert run(tmp_path / "host", tmp_path / "run").endswith(" 0\n")
