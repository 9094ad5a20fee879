# The registry against a real etcd, which the test starts and kills itself.
add_executable(kith_registry_etcd_test ${CMAKE_SOURCE_DIR}/tests/registry/kith_registry_etcd_test.c)
target_link_libraries(kith_registry_etcd_test PRIVATE common PkgConfig::CMOCKA)
target_compile_options(kith_registry_etcd_test PRIVATE ${KITH_WARNINGS})
add_test(NAME tests/registry/kith_registry_etcd_test COMMAND kith_registry_etcd_test)
set_tests_properties(tests/registry/kith_registry_etcd_test
                     PROPERTIES LABELS "integration;etcd" TIMEOUT 300)
