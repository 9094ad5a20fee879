# Faiss::C, the C API of Faiss: the build of deploy/faiss, or an own one by -DKITH_FAISS_ROOT=FOLDER with
#   include/faiss/c_api/*.h    lib/libfaiss_c.{a,so}    lib/libfaiss_avx2.{a,so} or lib/libfaiss.{a,so}
set(KITH_FAISS_ROOT "" CACHE PATH "folder of an own build of Faiss 1.7.3 with its C API; empty: what deploy/faiss built")

set(root "${KITH_FAISS_ROOT}")
if(NOT root)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/deploy/faiss --path
                  OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE missing)
  if(missing)
    message(FATAL_ERROR "Faiss is not built yet. Run\n  ./deploy/faiss\nonce (about 3 minutes on 2 cores), or give "
                        "-DKITH_FAISS_ROOT=FOLDER with an own build of its C API (CONTRIBUTING.md).")
  endif()
endif()

# Looked for on every run, so that a new build of Faiss is found by an old build folder.
foreach(variable FAISS_C_LIB FAISS_LIB FAISS_INCLUDE)
  unset(${variable} CACHE)
endforeach()
set(places PATHS ${root} NO_DEFAULT_PATH)
find_library(FAISS_C_LIB faiss_c ${places} PATH_SUFFIXES lib lib64 lib/x86_64-linux-gnu)
find_library(FAISS_LIB NAMES faiss_avx2 faiss ${places} PATH_SUFFIXES lib lib64 lib/x86_64-linux-gnu)
find_path(FAISS_INCLUDE faiss/c_api/index_factory_c.h ${places} PATH_SUFFIXES include)
if(NOT FAISS_C_LIB OR NOT FAISS_LIB OR NOT FAISS_INCLUDE)
  message(FATAL_ERROR "${root} does not hold a build of Faiss with its C API: include/faiss/c_api/index_factory_c.h, lib/libfaiss_c "
                      "and lib/libfaiss_avx2 or lib/libfaiss are needed. Without -DKITH_FAISS_ROOT, ./deploy/faiss builds one.")
endif()

# The level of the instructions inside, which faiss.c compares with the CPU before anything else of Faiss runs.
set(level generic)
if(EXISTS ${root}/LEVEL)
  file(STRINGS ${root}/LEVEL level)
elseif(FAISS_LIB MATCHES "faiss_avx2")
  set(level avx2)
endif()
message(STATUS "Faiss (${level}): ${root}")

add_library(Faiss::C INTERFACE IMPORTED GLOBAL)
target_include_directories(Faiss::C INTERFACE ${FAISS_INCLUDE})
target_link_libraries(Faiss::C INTERFACE ${FAISS_C_LIB} ${FAISS_LIB} PkgConfig::BLAS gomp stdc++ m)
if(level STREQUAL avx2)
  target_compile_definitions(Faiss::C INTERFACE KITH_FAISS_AVX2)
endif()
