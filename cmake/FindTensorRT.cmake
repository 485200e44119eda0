# Finds TensorRT below TensorRT_ROOT (a CMake or an environment variable) and nowhere else: a
# project that does not ask for it must not meet it by chance.
#
#   TensorRT::headers       always
#   TensorRT::nvinfer       where the library is there too
#   TensorRT_VERSION_MAJOR  from the headers
set(_tensorrt_root "${TensorRT_ROOT}")
if(NOT _tensorrt_root)
  set(_tensorrt_root "$ENV{TensorRT_ROOT}")
endif()
# Packages of Linux distributions put headers and libraries below the name of the architecture.
file(GLOB _tensorrt_include "${_tensorrt_root}/include" "${_tensorrt_root}/include/*-linux-gnu")
file(GLOB _tensorrt_lib
  "${_tensorrt_root}/lib" "${_tensorrt_root}/lib64" "${_tensorrt_root}/lib/*-linux-gnu")
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h PATHS ${_tensorrt_include} NO_DEFAULT_PATH NO_CACHE)
find_library(TensorRT_NVINFER_LIBRARY nvinfer PATHS ${_tensorrt_lib} NO_DEFAULT_PATH NO_CACHE)
if(TensorRT_INCLUDE_DIR)
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" TensorRT_VERSION_MAJOR
    REGEX "define (NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) +[0-9]+")
  string(REGEX MATCH "[0-9]+" TensorRT_VERSION_MAJOR "${TensorRT_VERSION_MAJOR}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION_MAJOR
  REASON_FAILURE_MESSAGE "TensorRT_ROOT is '${_tensorrt_root}'")
if(TensorRT_FOUND AND NOT TARGET TensorRT::headers)
  add_library(TensorRT::headers INTERFACE IMPORTED)
  set_target_properties(TensorRT::headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()
if(TensorRT_FOUND AND TensorRT_NVINFER_LIBRARY AND NOT TARGET TensorRT::nvinfer)
  add_library(TensorRT::nvinfer UNKNOWN IMPORTED)
  set_target_properties(TensorRT::nvinfer PROPERTIES
    IMPORTED_LOCATION "${TensorRT_NVINFER_LIBRARY}"
    INTERFACE_LINK_LIBRARIES TensorRT::headers)
endif()
