# Defines `moetap::libtorch`: the CPU side of LibTorch, taken from its folder.
#
# find_package(Torch) is not used: in a CUDA build of LibTorch it demands nvcc and links libtorch_cuda and libcudart into
# everything. A LibTorch of the PyPI wheel, of the CPU-only wheel or of the LibTorch archive serves equally here.
#
# The folder is MOETAP_TORCH_DIR; else the one that find_package(Torch) found (TORCH_INSTALL_PREFIX), or that Torch_DIR or
# CMAKE_PREFIX_PATH name; else the torch package of .venv/bin/python (in moetap's own tree) or of python3.
# Also included by the installed moetap-config.cmake.

set(MOETAP_TORCH_OLDEST 2.8)
set(MOETAP_TORCH_NEWEST 2.15)
set(MOETAP_TORCH_DIR "" CACHE PATH
    "Folder of LibTorch (with include/ and lib/). Default: that of find_package(Torch), else the torch package of python3")

# Sets `out` to the folder of a LibTorch, looked for in the order above (after MOETAP_TORCH_DIR); empty: none.
function(moetap_find_torch_dir out)
  set(${out} "" PARENT_SCOPE)
  if(TORCH_INSTALL_PREFIX)
    set(${out} "${TORCH_INSTALL_PREFIX}" PARENT_SCOPE)
    return()
  endif()
  string(REPLACE ":" ";" prefixes "$ENV{CMAKE_PREFIX_PATH}")
  find_path(torch_package TorchConfig.cmake PATHS "${Torch_DIR}" "$ENV{Torch_DIR}" ${CMAKE_PREFIX_PATH} ${prefixes}
            PATH_SUFFIXES share/cmake/Torch Torch NO_DEFAULT_PATH NO_CACHE)
  if(torch_package)
    cmake_path(SET folder NORMALIZE "${torch_package}/../../..")
    string(REGEX REPLACE "/$" "" folder "${folder}")
    set(${out} "${folder}" PARENT_SCOPE)
    return()
  endif()
  set(python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  if(NOT PROJECT_NAME STREQUAL "moetap" OR NOT EXISTS "${python}")
    set(python python3)
  endif()
  # find_spec locates the package without importing it, which takes seconds.
  execute_process(
    COMMAND "${python}" -c
      "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
    OUTPUT_VARIABLE folder RESULT_VARIABLE status ERROR_QUIET)
  if(status EQUAL 0)
    set(${out} "${folder}" PARENT_SCOPE)
  endif()
endfunction()

# Sets `out` to the version of the LibTorch in `folder`, "2.11.0"; empty: there is none.
function(moetap_read_torch_version out folder)
  set(${out} "" PARENT_SCOPE)
  # Since LibTorch 2.9 the numbers are in the second; the first only includes it.
  foreach(header torch/csrc/api/include/torch/version.h torch/headeronly/version.h)
    if(NOT EXISTS "${folder}/include/${header}")
      continue()
    endif()
    file(STRINGS "${folder}/include/${header}" lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    if(lines MATCHES "MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+)")
      set(${out} "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}.${CMAKE_MATCH_3}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

set(torch_range "${MOETAP_TORCH_OLDEST} to ${MOETAP_TORCH_NEWEST}")
if(NOT MOETAP_TORCH_DIR)
  moetap_find_torch_dir(torch_folder)
  if(NOT torch_folder)
    message(FATAL_ERROR "moetap: no LibTorch found. Name the folder of a LibTorch ${torch_range} (with include/ and lib/) with "
                        "-DMOETAP_TORCH_DIR=..., or install one: scripts/setup in moetap's tree, else pip install torch.")
  endif()
  set_property(CACHE MOETAP_TORCH_DIR PROPERTY VALUE "${torch_folder}")
endif()
moetap_read_torch_version(torch_version "${MOETAP_TORCH_DIR}")
if(NOT torch_version)
  message(FATAL_ERROR "moetap: MOETAP_TORCH_DIR='${MOETAP_TORCH_DIR}' is no LibTorch (it has no include/torch/.../version.h). "
                      "Name the folder of a LibTorch ${torch_range} with -DMOETAP_TORCH_DIR=...")
endif()
string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_minor "${torch_version}")
if(torch_minor VERSION_LESS MOETAP_TORCH_OLDEST OR torch_minor VERSION_GREATER MOETAP_TORCH_NEWEST)
  message(FATAL_ERROR "moetap: '${MOETAP_TORCH_DIR}' is LibTorch ${torch_version}, moetap works with ${torch_range}. Name another folder "
                      "with -DMOETAP_TORCH_DIR=...")
endif()
# An installed library serves the minor version that it was built for and no other: LibTorch keeps no ABI.
if(MOETAP_BUILT_FOR_TORCH AND NOT torch_minor VERSION_EQUAL MOETAP_BUILT_FOR_TORCH)
  message(FATAL_ERROR "moetap: '${MOETAP_TORCH_DIR}' is LibTorch ${torch_version}, and this moetap was built for "
                      "${MOETAP_BUILT_FOR_TORCH}. Name a LibTorch ${MOETAP_BUILT_FOR_TORCH} with -DMOETAP_TORCH_DIR=..., or build "
                      "moetap against this one.")
endif()
message(STATUS "LibTorch ${torch_version} in ${MOETAP_TORCH_DIR}")

set(MOETAP_TORCH_LIB_DIR "${MOETAP_TORCH_DIR}/lib")
add_library(moetap_libtorch INTERFACE)
add_library(moetap::libtorch ALIAS moetap_libtorch)
target_include_directories(moetap_libtorch SYSTEM INTERFACE
  "${MOETAP_TORCH_DIR}/include" "${MOETAP_TORCH_DIR}/include/torch/csrc/api/include")
# FMT_HEADER_ONLY: fmt comes from LibTorch's own headers; a second fmt on the include path would differ in layout.
# All wheels since LibTorch 2.7 have the C++11 ABI.
target_compile_definitions(moetap_libtorch INTERFACE FMT_HEADER_ONLY=1 _GLIBCXX_USE_CXX11_ABI=1)
target_link_libraries(moetap_libtorch INTERFACE
  "${MOETAP_TORCH_LIB_DIR}/libtorch_cpu.so" "${MOETAP_TORCH_LIB_DIR}/libc10.so")

# fmt alone, of the same headers, for targets that use nothing else of LibTorch.
add_library(moetap_fmt INTERFACE)
add_library(moetap::fmt ALIAS moetap_fmt)
target_include_directories(moetap_fmt SYSTEM INTERFACE "${MOETAP_TORCH_DIR}/include")
target_compile_definitions(moetap_fmt INTERFACE FMT_HEADER_ONLY=1 _GLIBCXX_USE_CXX11_ABI=1)
