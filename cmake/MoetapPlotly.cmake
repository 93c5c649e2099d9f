# Sets MOETAP_PLOTLY, the file plotly.min.js that `moetap report` puts into its pages, as the PyPI wheel of plotly ships it:
# that of the package plotly of .venv/bin/python or python3, unless -DMOETAP_PLOTLY=FILE names it.
set(MOETAP_PLOTLY "" CACHE FILEPATH "Plotly's JavaScript (plotly.min.js). Default: that of the Python package plotly")

if(NOT MOETAP_PLOTLY)
  set(python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  if(NOT EXISTS "${python}")
    set(python python3)
  endif()
  execute_process(
    COMMAND "${python}" -c
      "import importlib.util as u; s = u.find_spec('plotly'); print(s.submodule_search_locations[0] if s else '', end='')"
    OUTPUT_VARIABLE folder RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0 OR NOT folder)
    message(FATAL_ERROR "moetap: Plotly is not there: the Python package plotly has it. Run scripts/setup, or name the file "
                        "plotly.min.js with -DMOETAP_PLOTLY=FILE.")
  endif()
  set_property(CACHE MOETAP_PLOTLY PROPERTY VALUE "${folder}/package_data/plotly.min.js")
endif()
if(NOT EXISTS "${MOETAP_PLOTLY}")
  message(FATAL_ERROR "moetap: MOETAP_PLOTLY='${MOETAP_PLOTLY}' does not exist. Name plotly.min.js of a plotly wheel, or run "
                      "scripts/setup.")
endif()
