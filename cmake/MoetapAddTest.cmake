# moetap_add_test(NAME name SOURCES a_test.cpp ... [LIBRARIES moetap::analysis ...] [ENVIRONMENT A=b ...] [TIMEOUT seconds]
#                 [PLAIN])
#
# A GoogleTest program and one ctest entry for it, named NAME. There is no entry for each test case: each would load
# LibTorch again, which takes a second. PLAIN: the test and its libraries use nothing of LibTorch but fmt.
#
# moetap_add_pytest(NAME name FILES test_a.py ... [ENVIRONMENT A=b ...] [TIMEOUT seconds])
#
# A ctest entry, labelled python, that runs pytest on files of the current folder; MOETAP_BIN_DIR and MOETAP_LIB_DIR name
# what was built.

if(MOETAP_SANITIZER STREQUAL "address")
  # LibTorch is not instrumented: its containers carry no annotations. Exit status 86: no program of ours uses it, so a
  # test that expects a failure never takes a report for it.
  set(MOETAP_TEST_ENVIRONMENT
      "ASAN_OPTIONS=detect_leaks=1:detect_container_overflow=0:detect_odr_violation=0:exitcode=86"
      "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/cmake/lsan_suppressions.txt:print_suppressions=0"
      "UBSAN_OPTIONS=print_stacktrace=1")
elseif(MOETAP_SANITIZER STREQUAL "thread")
  # LibTorch is not instrumented: its reference counts cannot be seen, so what they free would be reported as a race.
  set(MOETAP_TEST_ENVIRONMENT "TSAN_OPTIONS=ignore_noninstrumented_modules=1:history_size=7")
endif()

function(moetap_add_test)
  cmake_parse_arguments(PARSE_ARGV 0 test "PLAIN" "NAME;TIMEOUT" "SOURCES;LIBRARIES;ENVIRONMENT")
  if(NOT test_NAME OR NOT test_SOURCES OR test_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "moetap_add_test: NAME and SOURCES are needed, unknown: '${test_UNPARSED_ARGUMENTS}'")
  endif()
  if(NOT test_TIMEOUT)
    set(test_TIMEOUT 300)
  endif()
  add_executable(${test_NAME} ${test_SOURCES})
  target_link_libraries(${test_NAME} PRIVATE ${test_LIBRARIES} GTest::gtest GTest::gtest_main)
  set(plain)
  if(test_PLAIN)
    set(plain PLAIN)
  endif()
  moetap_configure_target(${test_NAME} TEST ${plain})
  set_target_properties(${test_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  add_test(NAME ${test_NAME} COMMAND ${test_NAME})
  set_tests_properties(${test_NAME} PROPERTIES TIMEOUT ${test_TIMEOUT}
    ENVIRONMENT "${MOETAP_TEST_ENVIRONMENT};${test_ENVIRONMENT}")
endfunction()

function(moetap_add_pytest)
  cmake_parse_arguments(PARSE_ARGV 0 test "" "NAME;TIMEOUT" "FILES;ENVIRONMENT")
  if(NOT test_NAME OR NOT test_FILES OR test_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "moetap_add_pytest: NAME and FILES are needed, unknown: '${test_UNPARSED_ARGUMENTS}'")
  endif()
  if(NOT test_TIMEOUT)
    set(test_TIMEOUT 900)
  endif()
  set(python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  if(NOT EXISTS "${python}")
    message(STATUS "moetap: test ${test_NAME} is left out: it needs .venv, which scripts/setup makes")
    return()
  endif()
  list(TRANSFORM test_FILES PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/")
  add_test(NAME ${test_NAME} COMMAND "${python}" -m pytest -q -p no:cacheprovider ${test_FILES})
  set(environment ${MOETAP_TEST_ENVIRONMENT} "MOETAP_BIN_DIR=${PROJECT_BINARY_DIR}/bin"
      "MOETAP_LIB_DIR=${PROJECT_BINARY_DIR}/lib" "MOETAP_SANITIZER=${MOETAP_SANITIZER}" ${test_ENVIRONMENT})
  set_tests_properties(${test_NAME} PROPERTIES LABELS python TIMEOUT ${test_TIMEOUT} ENVIRONMENT "${environment}")
endfunction()
