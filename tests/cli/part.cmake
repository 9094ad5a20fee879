# `kith import` against a server that misbehaves on purpose.
add_executable(cli_import_test ${CMAKE_CURRENT_LIST_DIR}/cli_import_test.c)
target_link_libraries(cli_import_test PRIVATE cli coordinator PkgConfig::CMOCKA)
target_compile_options(cli_import_test PRIVATE ${KITH_WARNINGS})
add_test(NAME tests/cli/cli_import_test COMMAND cli_import_test)
set_tests_properties(tests/cli/cli_import_test PROPERTIES LABELS "unit;integration;cli" TIMEOUT 120)
