add_executable(bench_batch batch.c ann_set.c ann_kith.c ann_segments.c ann_memory.c store_fill.c)
target_link_libraries(bench_batch PRIVATE shard_query m)
target_compile_options(bench_batch PRIVATE ${KITH_WARNINGS})
