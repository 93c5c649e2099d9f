# Defines `moetap::libtorch`: the CPU side of LibTorch, taken from its folder.
#
# find_package(Torch) is not used: in a CUDA build of LibTorch it demands nvcc and links libtorch_cuda and libcudart into
# everything. A LibTorch of the PyPI wheel, of the CPU-only wheel or of the LibTorch archive serves equally here.

set(MOETAP_TORCH_VERSION "2.11" CACHE INTERNAL "LibTorch version whose interfaces moetap is written for")
set(MOETAP_TORCH_DIR "" CACHE PATH
    "Folder of LibTorch (with include/ and lib/). Default: that of the torch package of .venv/bin/python, else of python3")

function(moetap_find_torch_dir out)
  set(python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  if(NOT EXISTS "${python}")
    set(python python3)
  endif()
  # find_spec locates the package without importing it, which takes seconds.
  execute_process(
    COMMAND "${python}" -c
      "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
    OUTPUT_VARIABLE folder RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0 OR folder STREQUAL "")
    message(FATAL_ERROR "moetap: no LibTorch: '${python}' has no package torch. Run scripts/setup, or name a LibTorch "
                        "${MOETAP_TORCH_VERSION} folder with -DMOETAP_TORCH_DIR=...")
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

if(NOT MOETAP_TORCH_DIR)
  moetap_find_torch_dir(folder)
  set_property(CACHE MOETAP_TORCH_DIR PROPERTY VALUE "${folder}")
endif()

set(version_header "${MOETAP_TORCH_DIR}/include/torch/headeronly/version.h")
if(NOT EXISTS "${version_header}")
  message(FATAL_ERROR "moetap: MOETAP_TORCH_DIR='${MOETAP_TORCH_DIR}' is no LibTorch ${MOETAP_TORCH_VERSION} (it has no "
                      "include/torch/headeronly/version.h). Run scripts/setup, or name another folder.")
endif()
file(STRINGS "${version_header}" version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" found "${version_lines}")
if(NOT found MATCHES "^${MOETAP_TORCH_VERSION}\\.")
  message(FATAL_ERROR "moetap: MOETAP_TORCH_DIR='${MOETAP_TORCH_DIR}' is LibTorch ${found}, moetap needs "
                      "${MOETAP_TORCH_VERSION}. Run scripts/setup, or name another folder.")
endif()
message(STATUS "LibTorch ${found} in ${MOETAP_TORCH_DIR}")

set(MOETAP_TORCH_LIB_DIR "${MOETAP_TORCH_DIR}/lib")
add_library(moetap_libtorch INTERFACE)
add_library(moetap::libtorch ALIAS moetap_libtorch)
target_include_directories(moetap_libtorch SYSTEM INTERFACE
  "${MOETAP_TORCH_DIR}/include" "${MOETAP_TORCH_DIR}/include/torch/csrc/api/include")
# FMT_HEADER_ONLY: fmt comes from LibTorch's own headers; a second fmt on the include path would differ in layout.
# LibTorch 2.11 exists with the C++11 ABI only.
target_compile_definitions(moetap_libtorch INTERFACE FMT_HEADER_ONLY=1 _GLIBCXX_USE_CXX11_ABI=1)
target_link_libraries(moetap_libtorch INTERFACE
  "${MOETAP_TORCH_LIB_DIR}/libtorch_cpu.so" "${MOETAP_TORCH_LIB_DIR}/libc10.so")
