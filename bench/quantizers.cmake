add_executable(bench_quantizers quantizers.c quantizers_world.c quantizers_make.c quantizers_rotation.c ann_set.c)
target_link_libraries(bench_quantizers PRIVATE shard_index m)
target_compile_options(bench_quantizers PRIVATE ${KITH_WARNINGS})
# RaBitQ's own loops, and its rotation of a query, at their best.
set_source_files_properties(quantizers_world.c quantizers_make.c PROPERTIES COMPILE_OPTIONS "-O3;-march=native;-ffast-math")
