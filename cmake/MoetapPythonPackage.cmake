# moetap_find_python_package(NAME RESULT): sets RESULT to the folder of a Python package of .venv/bin/python or python3; empty:
# it has none.
function(moetap_find_python_package name result)
  set(python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  if(NOT EXISTS "${python}")
    set(python python3)
  endif()
  execute_process(
    COMMAND "${python}" -c
      "import importlib.util as u; s = u.find_spec('${name}'); print(s.submodule_search_locations[0] if s else '', end='')"
    OUTPUT_VARIABLE folder RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0)
    set(folder "")
  endif()
  set(${result} "${folder}" PARENT_SCOPE)
endfunction()
