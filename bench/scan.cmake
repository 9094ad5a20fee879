add_executable(bench_scan scan.c scan_bytes.c)
target_link_libraries(bench_scan PRIVATE shard_index)
target_compile_options(bench_scan PRIVATE ${KITH_WARNINGS})
