# Sets MOETAP_PLOTLY, the file plotly.min.js that `moetap report` puts into its pages, as the PyPI wheel of plotly ships it:
# that of the package plotly of .venv/bin/python or python3, unless -DMOETAP_PLOTLY=FILE names it.
include(MoetapPythonPackage)
set(MOETAP_PLOTLY "" CACHE FILEPATH "Plotly's JavaScript (plotly.min.js). Default: that of the Python package plotly")

if(NOT MOETAP_PLOTLY)
  moetap_find_python_package(plotly folder)
  if(NOT folder)
    message(FATAL_ERROR "moetap: Plotly is not there: the Python package plotly has it. Run scripts/setup, or name the file "
                        "plotly.min.js with -DMOETAP_PLOTLY=FILE.")
  endif()
  set_property(CACHE MOETAP_PLOTLY PROPERTY VALUE "${folder}/package_data/plotly.min.js")
endif()
if(NOT EXISTS "${MOETAP_PLOTLY}")
  message(FATAL_ERROR "moetap: MOETAP_PLOTLY='${MOETAP_PLOTLY}' does not exist. Name plotly.min.js of a plotly wheel, or run "
                      "scripts/setup.")
endif()
