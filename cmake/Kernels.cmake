# What chooses instructions by CPU, and nothing else: for another architecture than this machine's it
# is cross-compiled and run by an emulator, where the libraries of the rest are not at hand.

# Only these files may use the instructions, and ask the CPU first.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set_source_files_properties(shard/index/ivf_kernels_dotprod.c PROPERTIES COMPILE_OPTIONS -march=armv8.2-a+dotprod)
  set_source_files_properties(proto/kith_crc32c.c PROPERTIES COMPILE_OPTIONS -march=armv8-a+crc)
endif()

function(kith_kernels)
  find_package(Threads REQUIRED)
  find_path(CMOCKA_INCLUDE cmocka.h REQUIRED)
  find_library(CMOCKA_LIB cmocka REQUIRED)
  file(GLOB kernels CONFIGURE_DEPENDS shard/index/*kernels*.c)
  list(FILTER kernels EXCLUDE REGEX "_(test|fuzz)\\.c$")
  add_library(kernels STATIC ${kernels} common/kith_f16.c proto/kith_crc32c.c)
  target_include_directories(kernels PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(kernels PUBLIC Threads::Threads m)
  target_compile_options(kernels PRIVATE ${KITH_WARNINGS})
  file(GLOB tests CONFIGURE_DEPENDS shard/index/*kernels_test.c common/kith_f16_test.c proto/kith_crc32c_test.c)
  foreach(test ${tests})
    get_filename_component(name ${test} NAME_WE)
    add_executable(${name} ${test})
    target_include_directories(${name} PRIVATE ${CMOCKA_INCLUDE})
    target_link_libraries(${name} PRIVATE kernels ${CMOCKA_LIB})
    target_compile_options(${name} PRIVATE ${KITH_WARNINGS})
    add_test(NAME ${name} COMMAND ${name})
  endforeach()
  # Compiled, so that it stays free of one CPU's instructions; what it would link is not at hand.
  add_library(bench_scan OBJECT bench/scan.c)
  target_include_directories(bench_scan PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(bench_scan PRIVATE ${KITH_WARNINGS})
endfunction()
