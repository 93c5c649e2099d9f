# Defines `moetap::arrow`, the headers of Arrow C++ and its Parquet, and MOETAP_ARROW_LIBRARIES, as the PyPI wheel of
# pyarrow ships them. Its libraries carry their version in their names (libarrow.so.2600) and need not have the plain ones.
#
# The folder is MOETAP_ARROW_DIR; else that of the package pyarrow of .venv/bin/python or python3.
include(MoetapPythonPackage)
set(MOETAP_ARROW_DIR "" CACHE PATH "Folder of the package pyarrow (with include/ and libarrow.so.*). Default: that of python3")

if(NOT MOETAP_ARROW_DIR)
  moetap_find_python_package(pyarrow folder)
  if(NOT folder)
    message(FATAL_ERROR "moetap: Apache Arrow is not there: the Python package pyarrow has it. Run scripts/setup, name the "
                        "folder of the package with -DMOETAP_ARROW_DIR=..., or leave Parquet out with -DMOETAP_PARQUET=OFF.")
  endif()
  set_property(CACHE MOETAP_ARROW_DIR PROPERTY VALUE "${folder}")
endif()

add_library(moetap_arrow INTERFACE)
add_library(moetap::arrow ALIAS moetap_arrow)
target_include_directories(moetap_arrow SYSTEM INTERFACE "${MOETAP_ARROW_DIR}/include")
set(MOETAP_ARROW_LIBRARIES)
foreach(name parquet arrow)
  file(GLOB libraries "${MOETAP_ARROW_DIR}/lib${name}.so.*")
  list(LENGTH libraries count)
  if(NOT count EQUAL 1 OR NOT EXISTS "${MOETAP_ARROW_DIR}/include/${name}")
    message(FATAL_ERROR "moetap: MOETAP_ARROW_DIR='${MOETAP_ARROW_DIR}' holds ${count} lib${name}.so.*, one is needed, and its "
                        "headers. Name the folder of a pyarrow wheel with -DMOETAP_ARROW_DIR=..., or run scripts/setup.")
  endif()
  list(APPEND MOETAP_ARROW_LIBRARIES "${libraries}")
endforeach()
