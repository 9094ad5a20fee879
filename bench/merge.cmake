add_executable(bench_merge merge.c points.c store_fill.c)
target_link_libraries(bench_merge PRIVATE shard_index)
target_compile_options(bench_merge PRIVATE ${KITH_WARNINGS})
