"""The installed package: relocatable, usable with find_package(moetap), and without the inside of the library."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from installed_package import ROOT, TORCH, build_project, run

sys.path.insert(0, str(ROOT / "tests" / "cli"))

from moe_model import moe_inputs

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(host LANGUAGES CXX)
find_package(moetap REQUIRED)
add_executable(host host.cpp)
target_compile_features(host PRIVATE cxx_std_20)
target_link_libraries(host PRIVATE moetap::plugin)
set_target_properties(host PROPERTIES BUILD_RPATH "${MOETAP_TORCH_DIR}/lib")
"""

# Uses everything that crosses the library's border: a class of the host that the library calls, exceptions, values.
HOST = """
#include <ATen/ATen.h>
#include <plugin/session.h>
#include <torch/csrc/jit/serialization/import.h>

#include <iostream>
#include <stdexcept>

using moetap::plugin::ForwardRecord;
using moetap::plugin::ModelDescription;

struct Sink : moetap::plugin::RecordSink {
  void add_model(std::shared_ptr<const ModelDescription> model) override { hooks = model->hooks.size(); }
  void write(const ForwardRecord& record) override {
    for (const auto& router : record.routers) tokens += router.sums.tokens();
  }
  void flush() override {}
  void close(const moetap::Counters& counters, const moetap::plugin::RunTimes&) override {
    std::cout << hooks << " hooks, " << tokens << " tokens, " << counters.forwards << " forwards" << std::endl;
  }
  size_t hooks = 0;
  int64_t tokens = 0;
};

int main(int, char** argv) {
  try {
    moetap::Config::from_json_text(R"({"tusk": "digits"})", "text");
  } catch (const std::invalid_argument& error) {
    std::cout << "invalid: " << (std::string(error.what()).find("tusk") != std::string::npos) << std::endl;
  }
  const auto config = moetap::Config::from_json_text(R"({"task": "digits"})", "text");
  std::cout << config.to_json()["task"] << std::endl;
  moetap::Session session(config, std::make_unique<Sink>());
  auto model = session.attach(torch::jit::load(argv[1]));
  const auto ids = at::arange(8, at::kLong).reshape({2, 4});
  model.forward({ids, at::ones_like(ids)});
  try {
    session.attach(torch::jit::Module("Plain"));
  } catch (const std::invalid_argument& error) {
    std::cout << "no router: " << (std::string(error.what()).find("no router") != std::string::npos) << std::endl;
  }
  session.close();
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


def test_a_host_project_builds_against_the_package(prefix, model, tmp_path):
    lines = run(build_host(prefix, tmp_path, HOST), model).splitlines()
    assert lines == ["invalid: 1", '"digits"', "no router: 1", "2 hooks, 16 tokens, 1 forwards"]


def includes_of(header: Path, root: Path, found: set[str]) -> set[str]:
    found.add(str(header))
    for name in re.findall(r'^#include "(.+)"$', (root / header).read_text(), re.MULTILINE):
        if name not in found:
            includes_of(Path(name), root, found)
    return found


def test_only_the_headers_that_the_public_ones_include_are_installed(prefix):
    include = prefix / "include"
    installed = {str(file.relative_to(include / "moetap")) for file in include.rglob("*") if file.is_file()}
    assert installed == includes_of(Path("plugin/session.h"), ROOT, set()) | {"moetap.h"}


def configure(prefix: Path, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess:
    """Configures a project that asks for moetap. Only `options` and `variables` tell it where LibTorch is."""
    (folder / "CMakeLists.txt").write_text(PROJECT.split("add_executable", maxsplit=1)[0])
    build = folder / "build"
    shutil.rmtree(build, ignore_errors=True)
    command = ["cmake", "-G", "Ninja", "-S", folder, "-B", build, f"-Dmoetap_DIR={prefix}/lib/cmake/moetap", *options]
    kept = {name: value for name, value in os.environ.items() if name not in ("CMAKE_PREFIX_PATH", "Torch_DIR")}
    return subprocess.run(command, capture_output=True, text=True, env=kept | variables)


@pytest.mark.parametrize(
    "option",
    [f"MOETAP_TORCH_DIR={TORCH}", f"Torch_DIR={TORCH}/share/cmake/Torch", f"CMAKE_PREFIX_PATH={TORCH}/share/cmake"],
)
def test_the_package_finds_the_libtorch_of_its_user(prefix, option, tmp_path):
    no_python = tmp_path / "bin"
    no_python.mkdir()
    (no_python / "python3").write_text("#!/bin/sh\nexit 1\n")
    (no_python / "python3").chmod(0o755)
    done = configure(prefix, tmp_path, f"-D{option}", PATH=f"{no_python}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert f"in {TORCH}\n" in done.stdout


def test_the_package_finds_the_libtorch_of_python(prefix, tmp_path):
    done = configure(prefix, tmp_path, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert f"in {TORCH}\n" in done.stdout


def libtorch_of_version(folder: Path, minor: int) -> Path:
    header = folder / f"torch{minor}" / "include" / "torch" / "csrc" / "api" / "include" / "torch" / "version.h"
    header.parent.mkdir(parents=True)
    numbers = {"MAJOR": 2, "MINOR": minor, "PATCH": 1}
    header.write_text("".join(f"#define TORCH_VERSION_{name} {number}\n" for name, number in numbers.items()))
    return folder / f"torch{minor}"


def test_the_package_refuses_a_libtorch_that_does_not_fit(prefix, tmp_path):
    own = int(run(sys.executable, "-c", "import torch; print(torch.__version__)").split(".")[1])
    lines = {
        7: "is LibTorch 2.7.1, moetap works with 2.8 to 2.15. Name another folder with -DMOETAP_TORCH_DIR=...",
        16: "is LibTorch 2.16.1, moetap works with 2.8 to 2.15. Name another folder with -DMOETAP_TORCH_DIR=...",
        own - 1: f"is LibTorch 2.{own - 1}.1, and this moetap was built for 2.{own}. Name a LibTorch 2.{own} with",
    }
    for minor, line in lines.items():
        done = configure(prefix, tmp_path, f"-DMOETAP_TORCH_DIR={libtorch_of_version(tmp_path, minor)}")
        assert done.returncode != 0
        assert line in " ".join(done.stderr.split())
    nothing = configure(prefix, tmp_path, f"-DMOETAP_TORCH_DIR={tmp_path}")
    assert "is no LibTorch" in " ".join(nothing.stderr.split())


def test_the_installed_program_runs_by_its_bare_name(prefix, model, tmp_path):
    variables = {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": f"{TORCH}/lib"}
    command = ["moetap", "inspect", "--json", model]
    hooks = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    assert (hooks.returncode, hooks.stderr) == (0, "")
    # The program must work even if libmoetap.so is preloaded into it.
    variables["LD_PRELOAD"] = str(prefix / "lib" / "libmoetap.so")
    torch.save(tuple(moe_inputs(2, 5, seed=0)[name] for name in ("input_ids", "attention_mask")), tmp_path / "a.pt")
    command = ["moetap", "run", model, "--inputs", tmp_path / "a.pt", "-o", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "run" / "log_metrics.json").read_text())["logs"]) == 2


def test_a_host_that_uses_no_symbol_of_moetap_has_its_operators(prefix, tmp_path):
    host = build_host(prefix, tmp_path, LOADING_HOST)
    assert "[libmoetap.so]" in run("readelf", "-d", host)
    run(host)


def test_a_host_in_c_builds_against_the_header(prefix, tmp_path):
    (tmp_path / "host.c").write_text(C_HOST)
    torch = f"{TORCH}/lib"
    warnings = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    paths = [
        f"-I{prefix}/include/moetap",
        f"-L{prefix}/lib",
        f"-Wl,-rpath,{prefix}/lib:{torch}",
        f"-Wl,-rpath-link,{torch}",
    ]
    # The installed library names no LibTorch: a host that does not use it itself must link it, before moetap.
    libraries = ["-Wl,--no-as-needed", f"-L{torch}", "-ltorch_cpu", "-lc10", "-lmoetap"]
    run("gcc", *warnings, "-o", tmp_path / "host", tmp_path / "host.c", *paths, *libraries)
    assert run(tmp_path / "host", tmp_path / "run").endswith(" 0\n")
