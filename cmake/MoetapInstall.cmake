# `cmake --install` gives the program, the library, its headers and a package: find_package(moetap), moetap::plugin.
include(CMakePackageConfigHelpers)

# What plugin/session.h includes, directly or not. tests/build/test_install.py compares the two.
set(MOETAP_PUBLIC_HEADERS
  analysis/attention/attention_call.h
  analysis/attention/attention_columns.h
  analysis/attention/attention_rows.h
  analysis/attention/attention_sums.h
  analysis/attention/attention_sums_layout.h
  analysis/attention/expert_rows.h
  analysis/numbers/token_kernels.h
  analysis/routers/host_call.h
  analysis/routers/router_call.h
  analysis/routers/router_column.h
  analysis/routers/router_sums_layout.h
  analysis/routers/router_sums_values.h
  hooks/points/hook_point.h
  hooks/points/token_layout.h
  plugin/formats/json_key.h
  plugin/records/attention_record.h
  plugin/records/config.h
  plugin/records/counters.h
  plugin/records/export.h
  plugin/records/forward_record.h
  plugin/records/held_router.h
  plugin/records/model_description.h
  plugin/records/record_sink.h
  plugin/session.h
  plugin/session/forward_label.h)

function(moetap_install)
  set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/moetap")
  if(TARGET moetap_plugin)
    set_target_properties(moetap_plugin PROPERTIES EXPORT_NAME plugin)
    install(TARGETS moetap_plugin EXPORT moetap_targets LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
    foreach(header ${MOETAP_PUBLIC_HEADERS})
      cmake_path(GET header PARENT_PATH folder)
      install(FILES "${PROJECT_SOURCE_DIR}/${header}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/moetap/${folder}")
    endforeach()
    # For hosts in C, beside the folders of the C++ headers: #include <moetap.h>.
    install(FILES "${PROJECT_SOURCE_DIR}/plugin/moetap.h" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/moetap")
    install(EXPORT moetap_targets FILE moetap-targets.cmake NAMESPACE moetap:: DESTINATION "${package_dir}")
  endif()
  if(TARGET moetap_cuda)
    # Beside libmoetap.so, which looks for it there.
    install(TARGETS moetap_cuda LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  endif()
  if(TARGET moetap_cli)
    install(TARGETS moetap_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
  endif()
  configure_package_config_file(
    "${PROJECT_SOURCE_DIR}/cmake/moetap-config.cmake.in" "${PROJECT_BINARY_DIR}/moetap-config.cmake"
    INSTALL_DESTINATION "${package_dir}")
  write_basic_package_version_file("${PROJECT_BINARY_DIR}/moetap-config-version.cmake" COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/moetap-config.cmake" "${PROJECT_BINARY_DIR}/moetap-config-version.cmake"
          "${PROJECT_SOURCE_DIR}/cmake/MoetapLibTorch.cmake" DESTINATION "${package_dir}")
endfunction()
