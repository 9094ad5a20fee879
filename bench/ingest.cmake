# The yardstick of ingest.sh.
add_executable(bench_disk disk.c)
target_link_libraries(bench_disk PRIVATE common)
target_compile_options(bench_disk PRIVATE ${KITH_WARNINGS})
