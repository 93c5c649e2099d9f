# Defines `moetap_build_options`: how moetap's own targets are compiled. Users of the installed library do not get it.

set(MOETAP_SANITIZER "" CACHE STRING "Sanitizer to build with: empty, address (and undefined behaviour) or thread")
set_property(CACHE MOETAP_SANITIZER PROPERTY STRINGS "" address thread)
option(MOETAP_WARNINGS_ARE_ERRORS "Treat warnings as errors" ON)
set(MOETAP_TEST_OPTIONS -O1)
option(MOETAP_PRECOMPILED_HEADER "Precompile LibTorch's headers; OFF shows missing #includes" ON)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# Hosts see what is marked MOETAP_API (plugin/records/export.h) and nothing else.
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")

add_library(moetap_build_options INTERFACE)
# -fPIC for programs too: one precompiled header serves every target, and it fits only where the code model is the same.
target_compile_options(moetap_build_options INTERFACE -Wall -Wextra -fPIC)
if(MOETAP_WARNINGS_ARE_ERRORS)
  target_compile_options(moetap_build_options INTERFACE -Werror)
endif()

if(MOETAP_SANITIZER)
  if(NOT MOETAP_SANITIZER MATCHES "^(address|thread)$")
    message(FATAL_ERROR "moetap: MOETAP_SANITIZER must be empty, address or thread, got '${MOETAP_SANITIZER}'")
  endif()
  set(sanitizers -fsanitize=${MOETAP_SANITIZER})
  if(MOETAP_SANITIZER STREQUAL "address")
    # The check vptr needs type information of LibTorch's classes, which its libraries hide.
    list(APPEND sanitizers -fsanitize=undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined)
  endif()
  target_compile_options(moetap_build_options INTERFACE ${sanitizers} -fno-omit-frame-pointer -g1)
  target_link_options(moetap_build_options INTERFACE ${sanitizers})
endif()

find_program(MOETAP_CCACHE ccache)
if(MOETAP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without these, ccache compiles every file that uses a precompiled header again.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      "${MOETAP_CCACHE}")
  target_compile_options(moetap_build_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()

# moetap_define_precompiled_header(TARGET OPTION...): LibTorch's headers cost 10 to 20 s a file: they are compiled once and
# shared by every target of ours that has the same options.
function(moetap_define_precompiled_header target)
  if(NOT MOETAP_PRECOMPILED_HEADER)
    return()
  endif()
  set(source "${PROJECT_BINARY_DIR}/${target}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "// The target that owns the precompiled header.\n")
  add_library(${target} OBJECT "${source}")
  target_link_libraries(${target} PRIVATE moetap_build_options moetap::libtorch)
  target_compile_options(${target} PRIVATE ${ARGN})
  target_precompile_headers(${target} PRIVATE
    <algorithm> <cstdint> <filesystem> <fstream> <functional> <map> <memory> <optional> <string> <unordered_map> <variant>
    <vector> <fmt/format.h> <nlohmann/json.hpp> <ATen/ATen.h> <torch/csrc/jit/api/module.h> <torch/csrc/jit/ir/ir.h>
    <torch/library.h>)
endfunction()

# moetap_configure_target(TARGET [TEST] [PLAIN]): options, include path, LibTorch and precompiled header of one of our targets. Call
# it once for each target, after add_library or add_executable. TEST: the target holds checks, whose own speed matters
# less than the third of the time that the compiler saves with -O1. PLAIN: it uses fmt, but nothing else of LibTorch.
function(moetap_configure_target target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TEST;PLAIN" "" "")
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${target} PRIVATE moetap_build_options)
  # GCC 12 reports overflows in its own std::string where it inlines appends at -O3 (GCC bug 105651 and others like it).
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-restrict -Wno-stringop-overflow)
    # ... and, with a sanitizer's checks between, unset members in its own std::regex (GCC bug 105562).
    if(MOETAP_SANITIZER)
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
  endif()
  set(header moetap_pch)
  if(arg_TEST)
    set(header moetap_test_pch)
    target_compile_options(${target} PRIVATE ${MOETAP_TEST_OPTIONS})
  endif()
  if(arg_PLAIN)
    target_link_libraries(${target} PUBLIC moetap::fmt)
    return()
  endif()
  target_link_libraries(${target} PUBLIC moetap::libtorch)
  if(MOETAP_PRECOMPILED_HEADER)
    target_precompile_headers(${target} REUSE_FROM ${header})
  endif()
endfunction()

# moetap_configure_library(TARGET): a shared library exports what is marked, and nothing of the headers that it includes.
function(moetap_configure_library target)
  set(script "${PROJECT_SOURCE_DIR}/cmake/exported_symbols.map")
  target_link_options(${target} PRIVATE "LINKER:--version-script=${script}")
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS "${script}")
endfunction()
