add_executable(bench_encode encode.c)
target_link_libraries(bench_encode PRIVATE coordinator)
