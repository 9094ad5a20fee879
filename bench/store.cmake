add_executable(bench_store store.c store_fill.c store_probe.c)
target_link_libraries(bench_store PRIVATE shard_rpc)
target_compile_options(bench_store PRIVATE ${KITH_WARNINGS})
