# Tests of the files that a run writes.
moetap_add_test(NAME plugin_atomic_file_test SOURCES formats/atomic_file_test.cpp LIBRARIES moetap::plugin)
moetap_add_test(NAME plugin_run_log_test SOURCES results/run_log_test.cpp LIBRARIES moetap::plugin)
moetap_add_test(NAME plugin_dump_writer_test SOURCES dump/dump_writer_test.cpp LIBRARIES moetap::plugin)
moetap_add_test(NAME plugin_writer_thread_test SOURCES session/writer_thread_test.cpp LIBRARIES moetap::plugin)
moetap_add_test(NAME plugin_run_recovery_test SOURCES run/run_recovery_test.cpp LIBRARIES moetap::plugin)
moetap_add_test(NAME plugin_run_kill_test SOURCES run/run_kill_test.cpp LIBRARIES moetap::plugin)
moetap_add_test(NAME plugin_run_files_test SOURCES run/run_files_test.cpp LIBRARIES moetap::plugin
                ENVIRONMENT MOETAP_TEST_RUN_DIR=${CMAKE_CURRENT_BINARY_DIR}/run_for_readers)
moetap_add_pytest(NAME plugin_run_readers_test FILES run/test_run_readers.py
                  ENVIRONMENT MOETAP_TEST_RUN_DIR=${CMAKE_CURRENT_BINARY_DIR}/run_for_readers)
set_tests_properties(plugin_run_files_test PROPERTIES FIXTURES_SETUP run_for_readers)
if(TEST plugin_run_readers_test)
  set_tests_properties(plugin_run_readers_test PROPERTIES FIXTURES_REQUIRED run_for_readers)
endif()
