add_executable(bench_ann ann.c ann_set.c ann_kith.c ann_segments.c ann_memory.c store_fill.c)
target_link_libraries(bench_ann PRIVATE shard_query m)
target_compile_options(bench_ann PRIVATE ${KITH_WARNINGS})
# Exact answers are computed once on the machine that measures.
set_source_files_properties(ann_set.c PROPERTIES COMPILE_OPTIONS "-O3;-march=native")

# The peers, when they are there (bench/setup); the build needs none of them.
find_path(HNSWLIB_INCLUDE hnswlib/hnswlib.h)
if(HNSWLIB_INCLUDE)
  target_sources(bench_ann PRIVATE peer_hnswlib.cpp)
  target_compile_definitions(bench_ann PRIVATE ANN_HNSWLIB)
  set_source_files_properties(peer_hnswlib.cpp PROPERTIES COMPILE_OPTIONS "-O3;-march=native;-Wno-error;-w")
endif()
if(TARGET Faiss::C)
  target_sources(bench_ann PRIVATE peer_faiss.c)
  target_compile_definitions(bench_ann PRIVATE ANN_FAISS)
  target_link_libraries(bench_ann PRIVATE Faiss::C)
endif()

add_executable(bench_clusters ann_clusters.c)
target_link_libraries(bench_clusters PRIVATE common)
target_compile_options(bench_clusters PRIVATE ${KITH_WARNINGS})
