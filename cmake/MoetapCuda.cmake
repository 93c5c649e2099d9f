# Defines `moetap_add_cuda_library`: kernels lie in a shared library of their own, so that moetap itself links no CUDA
# library (see analysis/devices/device_kernels.h).
#
# nvcc is that of CUDACXX, else the one that scripts/setup puts into .venv, else that of PATH. It is called directly:
# CMake 3.25 (Debian 12) does not know nvcc's C++20, and links a static CUDA runtime, but the wheels of PyPI bring a
# shared one.

option(MOETAP_CUDA "Build the kernels for CUDA; needs nvcc 13" ON)
set(MOETAP_CUDA_ARCHITECTURES "90;100;120" CACHE STRING
    "Compute capabilities that the kernels are compiled for; on others the driver compiles PTX of 7.5")

if(NOT MOETAP_CUDA)
  return()
endif()

set(cuda_of_torch "${MOETAP_TORCH_DIR}/../nvidia/cu13")  # where the wheel of LibTorch has its CUDA
find_program(MOETAP_NVCC nvcc HINTS "$ENV{CUDACXX}/.." "${cuda_of_torch}/bin" PATHS /usr/local/cuda/bin)
if(NOT MOETAP_NVCC)
  message(FATAL_ERROR "moetap: nvcc is not installed. Run scripts/setup, or build without kernels for CUDA: the preset cpu, or "
                      "-DMOETAP_CUDA=OFF")
endif()
execute_process(COMMAND "${MOETAP_NVCC}" --version OUTPUT_VARIABLE nvcc_version ERROR_QUIET)
string(REGEX REPLACE ".*release ([0-9.]+).*" "\\1" nvcc_version "${nvcc_version}")
if(NOT nvcc_version VERSION_GREATER_EQUAL 13)
  message(FATAL_ERROR "moetap: nvcc 13 is needed, as for LibTorch's wheel, got '${nvcc_version}' (${MOETAP_NVCC}). Run scripts/setup, "
                      "or name another one with -DMOETAP_NVCC=...")
endif()
message(STATUS "nvcc ${nvcc_version} (${MOETAP_NVCC}) for compute capabilities ${MOETAP_CUDA_ARCHITECTURES}")

# The CUDA runtime that LibTorch uses, so that a process has only one.
cmake_path(GET MOETAP_NVCC PARENT_PATH nvcc_folder)
find_library(MOETAP_CUDART libcudart.so.13 PATHS "${cuda_of_torch}/lib" "${MOETAP_TORCH_LIB_DIR}" "${nvcc_folder}/../lib64"
             NO_DEFAULT_PATH)
find_path(MOETAP_CUDA_INCLUDE_DIR cuda_runtime_api.h PATHS "${cuda_of_torch}/include" "${nvcc_folder}/../include"
          NO_DEFAULT_PATH)
if(NOT MOETAP_CUDART OR NOT MOETAP_CUDA_INCLUDE_DIR OR NOT EXISTS "${MOETAP_TORCH_LIB_DIR}/libc10_cuda.so")
  message(FATAL_ERROR "moetap: the LibTorch of '${MOETAP_TORCH_DIR}' has no CUDA 13 (libcudart.so.13, cuda_runtime_api.h and "
                      "libc10_cuda.so are needed; wheels for CUDA 12 lack them). Name another one, or use the preset cpu.")
endif()

# moetap_add_cuda_library(NAME SOURCES a.cu ... LIBRARIES target ...)
function(moetap_add_cuda_library name)
  cmake_parse_arguments(PARSE_ARGV 1 library "" "" "SOURCES;LIBRARIES")
  set(options -std=c++20 -O3 -DNDEBUG --expt-relaxed-constexpr -Xcompiler=-fPIC,-Wall,-fvisibility=hidden
      -DFMT_HEADER_ONLY=1 -I "${PROJECT_SOURCE_DIR}" -isystem "${MOETAP_TORCH_DIR}/include"
      -isystem "${MOETAP_TORCH_DIR}/include/torch/csrc/api/include" -isystem "${MOETAP_CUDA_INCLUDE_DIR}")
  if(MOETAP_WARNINGS_ARE_ERRORS)
    list(APPEND options --Werror=all-warnings -Xcompiler=-Werror)
  endif()
  foreach(architecture ${MOETAP_CUDA_ARCHITECTURES})
    list(APPEND options "--generate-code=arch=compute_${architecture},code=sm_${architecture}")
  endforeach()
  list(APPEND options --generate-code=arch=compute_75,code=compute_75 --threads=0 "-ccbin=${CMAKE_CXX_COMPILER}")
  set(launcher)
  if(MOETAP_CCACHE)
    set(launcher "${MOETAP_CCACHE}")
  endif()
  foreach(source ${library_SOURCES})
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${source}.o")
    cmake_path(GET object PARENT_PATH object_folder)
    file(MAKE_DIRECTORY "${object_folder}")
    add_custom_command(
      OUTPUT "${object}"
      COMMAND ${launcher} "${MOETAP_NVCC}" ${options} -MD -MT "${object}" -MF "${object}.d"
              -c "${CMAKE_CURRENT_SOURCE_DIR}/${source}" -o "${object}"
      DEPENDS "${source}" DEPFILE "${object}.d" COMMENT "Building CUDA object ${source}.o" VERBATIM)
    list(APPEND objects "${object}")
  endforeach()
  add_library(${name} SHARED ${objects})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX BUILD_RPATH "${MOETAP_TORCH_LIB_DIR};${cuda_of_torch}/lib")
  moetap_configure_library(${name})
  target_link_libraries(${name} PRIVATE ${library_LIBRARIES} "${MOETAP_TORCH_LIB_DIR}/libtorch_cpu.so"
    "${MOETAP_TORCH_LIB_DIR}/libc10.so" "${MOETAP_TORCH_LIB_DIR}/libc10_cuda.so" "${MOETAP_CUDART}")
endfunction()
