# One CMake target per layer, and a compiler that enforces the direction of includes.
#
#   kith_layer(shard/index USES shard_storage LIBS PkgConfig::ROARING)
#
# A layer sees a folder of links that holds only its own headers and those of the layers it USES
# (and, through them, what they use). An include that points backwards fails with "No such file".
#   *_test.c   a cmocka unit test, registered with ctest under the layer's label
#   *_fuzz.c   a libFuzzer target, built by the fuzz preset only
#   *_main.c   left out of the library
function(kith_layer folder)
  cmake_parse_arguments(L "" "" "USES;LIBS" ${ARGN})
  string(REPLACE "/" "_" lib ${folder})
  file(GLOB src CONFIGURE_DEPENDS ${folder}/*.c ${folder}/*.cpp)
  file(GLOB tests CONFIGURE_DEPENDS ${folder}/*_test.c)
  file(GLOB fuzzers CONFIGURE_DEPENDS ${folder}/*_fuzz.c)
  file(GLOB mains CONFIGURE_DEPENDS ${folder}/*_main.c)
  if(src)
    list(REMOVE_ITEM src ${tests} ${fuzzers} ${mains})
  endif()

  set(view ${CMAKE_BINARY_DIR}/view/${lib})
  get_filename_component(parent ${view}/${folder} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${folder} ${view}/${folder} SYMBOLIC)

  if(src)
    add_library(${lib} STATIC ${src})
    target_include_directories(${lib} PUBLIC ${view})
    target_link_libraries(${lib} PUBLIC ${L_USES} ${L_LIBS})
    target_compile_options(${lib} PRIVATE ${KITH_WARNINGS}
                           $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions;-fno-rtti>)
  else()
    add_library(${lib} INTERFACE)
    target_include_directories(${lib} INTERFACE ${view})
    target_link_libraries(${lib} INTERFACE ${L_USES} ${L_LIBS})
  endif()

  foreach(test ${tests})
    get_filename_component(name ${test} NAME_WE)
    add_executable(${name} ${test})
    target_link_libraries(${name} PRIVATE ${lib} PkgConfig::CMOCKA)
    target_compile_options(${name} PRIVATE ${KITH_WARNINGS})
    add_test(NAME ${folder}/${name} COMMAND ${name})
    set_tests_properties(${folder}/${name} PROPERTIES LABELS "unit;${lib}" TIMEOUT 300)
  endforeach()

  if(KITH_FUZZ)
    foreach(fuzzer ${fuzzers})
      get_filename_component(name ${fuzzer} NAME_WE)
      add_executable(${name} ${fuzzer})
      target_link_libraries(${name} PRIVATE ${lib})
      target_link_options(${name} PRIVATE -fsanitize=fuzzer)
      target_compile_options(${name} PRIVATE ${KITH_WARNINGS})
      add_dependencies(fuzzers ${name})
    endforeach()
  endif()
endfunction()
