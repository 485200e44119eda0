# What every native part of this project is built with: C++17 and, unless told otherwise, Release.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)

# bundle/labels.json as the header labels.h in FOLDER.
function(garment_transfer_labels folder)
  set(file "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../bundle/labels.json")
  file(READ "${file}" LABELS)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  configure_file("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/labels.h.in" "${folder}/labels.h" @ONLY)
endfunction()
