# An HTTP load generator for the `serve` benchmark.
add_executable(bench_load load.c)
set_target_properties(bench_load PROPERTIES OUTPUT_NAME load)
target_link_libraries(bench_load PRIVATE common)
target_compile_options(bench_load PRIVATE ${KITH_WARNINGS})
