# Finds one libtorch, 1.13 to 2.x, CPU or CUDA: -DMEDXAI_TORCH=DIR (or the environment's MEDXAI_TORCH), a wheel's torch
# folder or an unpacked libtorch; else CMAKE_PREFIX_PATH or Torch_DIR; else the system's. Sets MEDXAI_TORCH_*.
# Not find_package(Torch): that takes c10 from the system's folders when both are there, and wants nvcc for a
# CUDA build,
# which compiling this program does not need. It refuses two libtorches in one program.

set(MEDXAI_TORCH "$ENV{MEDXAI_TORCH}" CACHE PATH
  "A PyTorch wheel's torch folder or an unpacked libtorch (default: the system's)")
set(torch_root "${MEDXAI_TORCH}")
if(NOT torch_root AND Torch_DIR)
  get_filename_component(torch_root "${Torch_DIR}/../../.." ABSOLUTE)
  if(NOT EXISTS "${torch_root}/include/torch/csrc/api/include/torch/version.h")
    set(torch_root "")
  endif()
endif()
foreach(prefix ${CMAKE_PREFIX_PATH} $ENV{CMAKE_PREFIX_PATH})
  if(NOT torch_root AND EXISTS "${prefix}/Torch/TorchConfig.cmake") # what torch.utils.cmake_prefix_path names
    get_filename_component(torch_root "${prefix}/../.." ABSOLUTE)
  elseif(NOT torch_root AND EXISTS "${prefix}/include/torch/csrc/api/include/torch/version.h")
    set(torch_root "${prefix}")
  endif()
endforeach()
if(torch_root)
  get_filename_component(torch_root "${torch_root}" REALPATH BASE_DIR "${CMAKE_SOURCE_DIR}")
  if(NOT EXISTS "${torch_root}/include/torch/csrc/api/include/torch/version.h")
    message(FATAL_ERROR "'${torch_root}' holds no libtorch (expected include/torch/csrc/api/include/torch/version.h): "
      "name a PyTorch wheel's torch folder or an unpacked libtorch.")
  endif()
endif()

# Another libtorch than the last time: forget where things were.
if(DEFINED CACHE{MEDXAI_TORCH_FOUND_IN} AND NOT "$CACHE{MEDXAI_TORCH_FOUND_IN}" STREQUAL "${torch_root}")
  foreach(name INCLUDE torch_LIBRARY torch_cpu_LIBRARY c10_LIBRARY torch_cuda_LIBRARY c10_cuda_LIBRARY CUDA_INCLUDE
    CUDA_CRT)
    unset(MEDXAI_TORCH_${name} CACHE)
    unset(${name} CACHE)
  endforeach()
endif()
set(MEDXAI_TORCH_FOUND_IN "${torch_root}" CACHE INTERNAL "")

if(torch_root)
  set(where PATHS "${torch_root}" PATH_SUFFIXES include lib NO_DEFAULT_PATH)
else()
  set(where)
endif()
find_path(MEDXAI_TORCH_INCLUDE torch/csrc/api/include/torch/version.h ${where})
foreach(name torch torch_cpu c10)
  find_library(${name}_LIBRARY ${name} ${where})
endforeach()
if(NOT MEDXAI_TORCH_INCLUDE OR NOT torch_LIBRARY OR NOT torch_cpu_LIBRARY OR NOT c10_LIBRARY)
  message(FATAL_ERROR "No libtorch was found: install Debian's package libtorch-dev, or give -DMEDXAI_TORCH=DIR (a "
    "PyTorch wheel's torch folder or an unpacked libtorch).")
endif()
get_filename_component(torch_prefix "${MEDXAI_TORCH_INCLUDE}" DIRECTORY)

# CUDA's parts are optional, and only looked for beside the rest.
get_filename_component(torch_libraries_folder "${torch_cpu_LIBRARY}" DIRECTORY)
foreach(name torch_cuda c10_cuda)
  find_library(${name}_LIBRARY ${name} PATHS "${torch_libraries_folder}" NO_DEFAULT_PATH)
endforeach()

# One libtorch: headers and every library come from the same folder.
get_filename_component(torch_prefix_real "${torch_prefix}" REALPATH)
foreach(name torch torch_cpu c10 torch_cuda c10_cuda)
  if(${name}_LIBRARY)
    get_filename_component(folder "${${name}_LIBRARY}" DIRECTORY)
    get_filename_component(folder "${folder}" REALPATH)
    string(FIND "${folder}/" "${torch_prefix_real}/lib" at)
    get_filename_component(first_folder "${torch_libraries_folder}" REALPATH)
    if(NOT at EQUAL 0 OR NOT folder STREQUAL first_folder)
      message(FATAL_ERROR "Two libtorches would be mixed: the headers are in ${torch_prefix}, but lib${name}.so is in "
        "${folder}; give one with -DMEDXAI_TORCH=DIR in a new build folder.")
    endif()
  endif()
endforeach()

set(torch_version_file "${MEDXAI_TORCH_INCLUDE}/torch/headeronly/version.h") # 2.9 and later
if(NOT EXISTS "${torch_version_file}")
  set(torch_version_file "${MEDXAI_TORCH_INCLUDE}/torch/csrc/api/include/torch/version.h")
endif()
file(STRINGS "${torch_version_file}" torch_version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" MEDXAI_TORCH_VERSION
  "${torch_version_lines}")
if(MEDXAI_TORCH_VERSION VERSION_LESS 1.13)
  message(FATAL_ERROR "libtorch ${MEDXAI_TORCH_VERSION} in ${torch_prefix} is too old: medxai needs 1.13 or later.")
endif()
if(MEDXAI_TORCH_VERSION VERSION_LESS 2.9)
  set(MEDXAI_TORCH_CXX_STANDARD 17)
else()
  set(MEDXAI_TORCH_CXX_STANDARD 20) # its headers demand it
endif()

set(MEDXAI_TORCH_INCLUDES "${MEDXAI_TORCH_INCLUDE}" "${MEDXAI_TORCH_INCLUDE}/torch/csrc/api/include")
set(MEDXAI_TORCH_LIBRARIES "${torch_LIBRARY}" "${torch_cpu_LIBRARY}" "${c10_LIBRARY}")
set(MEDXAI_TORCH_RPATH "")
if(torch_root)
  set(MEDXAI_TORCH_RPATH "${torch_libraries_folder}")
endif()

# Wheels before 2.6 were built with libstdc++'s old strings: the mangled name of c10::Error's constructor tells.
file(STRINGS "${c10_LIBRARY}" torch_new_strings REGEX
  "_ZN3c105ErrorC[12]ENS_14SourceLocationENSt7__cxx1112basic_string" LIMIT_COUNT 1)
if(torch_new_strings)
  set(MEDXAI_TORCH_DEFINITIONS _GLIBCXX_USE_CXX11_ABI=1)
else()
  set(MEDXAI_TORCH_DEFINITIONS _GLIBCXX_USE_CXX11_ABI=0)
endif()

set(torch_kind "CPU")
if(torch_cuda_LIBRARY AND c10_cuda_LIBRARY)
  list(APPEND MEDXAI_TORCH_DEFINITIONS MEDXAI_TORCH_CUDA=1)
  list(APPEND MEDXAI_TORCH_LIBRARIES "${torch_cuda_LIBRARY}" "${c10_cuda_LIBRARY}")
  file(GLOB torch_cuda_wheels "${torch_prefix}/../nvidia/cu*/include" "${torch_prefix}/../nvidia/cuda_*/include")
  set(torch_cuda_hints ${torch_cuda_wheels} $ENV{CUDA_HOME}/include /usr/local/cuda/include)
  find_path(MEDXAI_TORCH_CUDA_INCLUDE cuda_runtime_api.h HINTS ${torch_cuda_hints})
  # in a package of its own among the wheels
  find_path(MEDXAI_TORCH_CUDA_CRT crt/host_defines.h HINTS ${torch_cuda_hints})
  if(MEDXAI_TORCH_CUDA_INCLUDE AND MEDXAI_TORCH_CUDA_CRT)
    list(APPEND MEDXAI_TORCH_INCLUDES "${MEDXAI_TORCH_CUDA_INCLUDE}" "${MEDXAI_TORCH_CUDA_CRT}")
    list(APPEND MEDXAI_TORCH_DEFINITIONS MEDXAI_CUDA=1)
    set(torch_kind "CUDA")
  else()
    set(torch_kind
      "CUDA; without CUDA's headers (cuda_runtime_api.h, crt/host_defines.h), so its memory is not counted")
  endif()
endif()
# Several processes train together where libtorch was built with c10d and Gloo: the headers alone do not tell.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES ${MEDXAI_TORCH_LIBRARIES} -Wl,--allow-shlib-undefined)
if(NOT "${MEDXAI_C10D_CHECKED}" STREQUAL "${torch_cpu_LIBRARY}")
  unset(MEDXAI_GLOO_LINKS CACHE)
endif()
check_cxx_source_compiles("extern \"C\" void _ZN4c10d16ProcessGroupGlooD1Ev();
  int main(int n, char **) { if (n > 9) _ZN4c10d16ProcessGroupGlooD1Ev(); return 0; }" MEDXAI_GLOO_LINKS)
unset(CMAKE_REQUIRED_LIBRARIES)
set(MEDXAI_C10D_CHECKED "${torch_cpu_LIBRARY}" CACHE INTERNAL "")
set(MEDXAI_C10D FALSE)
set(torch_dist "without c10d: one process trains")
if(MEDXAI_GLOO_LINKS AND EXISTS "${MEDXAI_TORCH_INCLUDE}/torch/csrc/distributed/c10d/ProcessGroupGloo.hpp"
    AND EXISTS "${MEDXAI_TORCH_INCLUDE}/torch/csrc/distributed/c10d/reducer.hpp")
  set(MEDXAI_C10D TRUE)
  set(torch_dist "c10d")
endif()
message(STATUS "libtorch ${MEDXAI_TORCH_VERSION} (${torch_kind}; ${torch_dist}) in ${torch_libraries_folder}, "
  "C++${MEDXAI_TORCH_CXX_STANDARD}, ${MEDXAI_TORCH_DEFINITIONS}")
