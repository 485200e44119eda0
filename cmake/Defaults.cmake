# What every native part of this project is built with: C++17 and, unless told otherwise, Release.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)

# The JSON of bundle/ as the header bundle_json.h in FOLDER.
function(garment_transfer_json folder)
  foreach(name labels manifest.schema record.schema)
    set(file "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../bundle/${name}.json")
    file(READ "${file}" ${name})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  endforeach()
  configure_file("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/bundle_json.h.in" "${folder}/bundle_json.h" @ONLY)
endfunction()
