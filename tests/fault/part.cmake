# Faults of the machine under a store: kills, power losses, full disks. Not "unit": they take a while.
foreach(name fault_test fault_power_test fault_space_test)
  add_executable(${name} ${CMAKE_CURRENT_LIST_DIR}/${name}.c ${CMAKE_CURRENT_LIST_DIR}/fault_rig.c)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE shard_storage PkgConfig::CMOCKA)
  target_compile_options(${name} PRIVATE ${KITH_WARNINGS})
  add_test(NAME tests/fault/${name} COMMAND ${name})
  set_tests_properties(tests/fault/${name} PROPERTIES LABELS "fault" TIMEOUT 3600)
endforeach()
