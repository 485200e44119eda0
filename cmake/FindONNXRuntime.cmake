# Finds ONNX Runtime: below ONNXRUNTIME_ROOT (a CMake or an environment variable) or where the
# system has it. ONNXRUNTIME_LIBRARY names the library where it lies elsewhere; the one in the Python
# package will do.
#
#   ONNXRuntime::headers      always
#   ONNXRuntime::onnxruntime  with COMPONENTS library
#   ONNXRuntime_API           the headers' ORT_API_VERSION: 17 for 1.17
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}"
  PATH_SUFFIXES onnxruntime include include/onnxruntime usr/include/onnxruntime
                include/onnxruntime/core/session)
mark_as_advanced(ONNXRUNTIME_INCLUDE_DIR)
set(_onnxruntime_required ONNXRUNTIME_INCLUDE_DIR)
if(ONNXRUNTIME_INCLUDE_DIR)
  file(STRINGS "${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h" ONNXRuntime_API
    REGEX "define ORT_API_VERSION")
  string(REGEX MATCH "[0-9]+" ONNXRuntime_API "${ONNXRuntime_API}")
endif()
if("library" IN_LIST ONNXRuntime_FIND_COMPONENTS)
  find_library(ONNXRUNTIME_LIBRARY onnxruntime
    HINTS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_LIBRARY}"
    PATH_SUFFIXES lib lib64)
  list(APPEND _onnxruntime_required ONNXRUNTIME_LIBRARY)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime REQUIRED_VARS ${_onnxruntime_required}
  REASON_FAILURE_MESSAGE "set ONNXRUNTIME_ROOT")
if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::headers)
  add_library(ONNXRuntime::headers INTERFACE IMPORTED)
  set_target_properties(ONNXRuntime::headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE_DIR}")
endif()
if(ONNXRuntime_FOUND AND ONNXRUNTIME_LIBRARY AND NOT TARGET ONNXRuntime::onnxruntime)
  add_library(ONNXRuntime::onnxruntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::onnxruntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}"
    INTERFACE_LINK_LIBRARIES ONNXRuntime::headers)
endif()
