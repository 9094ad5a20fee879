# An HTTP load generator for the `serve` benchmark.
add_executable(bench_load load.c)
set_target_properties(bench_load PROPERTIES OUTPUT_NAME load)
target_link_libraries(bench_load PRIVATE common)
target_compile_options(bench_load PRIVATE ${KITH_WARNINGS})

# Programs of serve.sh and ingest.sh: made-up points, and the engine without wire and merge.
add_executable(bench_data data.c points.c)
target_link_libraries(bench_data PRIVATE common)
target_compile_options(bench_data PRIVATE ${KITH_WARNINGS})

add_executable(bench_engine engine.c points.c store_fill.c)
target_link_libraries(bench_engine PRIVATE shard_query)
target_compile_options(bench_engine PRIVATE ${KITH_WARNINGS})

# What searches should find, for served.sh.
add_executable(bench_truth truth.c points.c)
target_link_libraries(bench_truth PRIVATE common m)
target_compile_options(bench_truth PRIVATE ${KITH_WARNINGS} -O3)
