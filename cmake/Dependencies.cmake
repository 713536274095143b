# Finds what syncbn is built from and makes imported targets of it.
#
#   syncbn::torch   LibTorch (CPU and CUDA parts), from the Python wheels pinned in
#                   launch/requirements.txt, or from a folder of the user's own (-DSYNCBN_TORCH=…)
#   syncbn::nccl    the NCCL that this LibTorch itself uses; SYNCBN_HAVE_NCCL says whether it is there
#   MPI::MPI_CXX, Boost::program_options, spdlog::spdlog, nlohmann_json, ZLIB::ZLIB, OpenSSL::Crypto
#
# find_package(Torch) of a CUDA wheel insists on a CUDA toolkit, which building syncbn does not
# need: the wheels carry the headers and the libraries. Hence the imported targets made by hand.

set(SYNCBN_TORCH "" CACHE PATH
    "LibTorch folder (with include/ and lib/); empty: the torch wheel of SYNCBN_VENV")
set(SYNCBN_VENV "${PROJECT_SOURCE_DIR}/.venv" CACHE PATH
    "Python environment made by launch/setup.sh from launch/requirements.txt")

if(SYNCBN_TORCH)
  file(REAL_PATH "${SYNCBN_TORCH}" _torch_dir)
else()
  file(GLOB _torch_dir "${SYNCBN_VENV}/lib/python3.*/site-packages/torch")
endif()
# CUDA and NCCL come with this very LibTorch, in the wheels installed beside it, or not at all.
cmake_path(GET _torch_dir PARENT_PATH _site_packages)
if(NOT EXISTS "${_torch_dir}/include/ATen/ATen.h")
  message(FATAL_ERROR
    "LibTorch not found in '${SYNCBN_TORCH}' or '${SYNCBN_VENV}'. Run launch/setup.sh, which makes .venv from "
    "launch/requirements.txt, or name a LibTorch folder with -DSYNCBN_TORCH=…")
endif()

set(_cuda_dir "${_site_packages}/nvidia/cu13")
set(_nccl_dir "${_site_packages}/nvidia/nccl")
set(SYNCBN_HAVE_CUDA OFF)
set(SYNCBN_HAVE_NCCL OFF)
set(_torch_libraries torch torch_cpu c10)
if(EXISTS "${_torch_dir}/lib/libtorch_cuda.so" AND
   EXISTS "${_cuda_dir}/include/cuda_runtime_api.h")
  set(SYNCBN_HAVE_CUDA ON)
  list(APPEND _torch_libraries torch_cuda c10_cuda)
  if(EXISTS "${_nccl_dir}/include/nccl.h")
    set(SYNCBN_HAVE_NCCL ON)
  endif()
endif()

add_library(syncbn::torch INTERFACE IMPORTED)
target_include_directories(syncbn::torch SYSTEM INTERFACE
  "${_torch_dir}/include" "${_torch_dir}/include/torch/csrc/api/include")
target_compile_definitions(syncbn::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
# By path, so that CMake gives whoever links them the run path too.
list(TRANSFORM _torch_libraries REPLACE "(.+)" "${_torch_dir}/lib/lib\\1.so")
# The wheel's libraries export a std::filesystem of their own, in part: remove_all through them jumps
# to address 0. Naming libstdc++ before them lets the compiler's own win.
# torch_cuda registers its kernels when it is loaded and is named by no symbol of ours: keep it.
target_link_libraries(syncbn::torch INTERFACE "-Wl,--push-state,--no-as-needed" stdc++
  ${_torch_libraries} "-Wl,--pop-state" "-Wl,--allow-shlib-undefined")
if(SYNCBN_HAVE_CUDA)
  target_include_directories(syncbn::torch SYSTEM INTERFACE "${_cuda_dir}/include")
  target_link_libraries(syncbn::torch INTERFACE "${_cuda_dir}/lib/libcudart.so.13")
endif()
if(SYNCBN_HAVE_NCCL)
  add_library(syncbn::nccl SHARED IMPORTED)
  set_target_properties(syncbn::nccl PROPERTIES
    IMPORTED_LOCATION "${_nccl_dir}/lib/libnccl.so.2"
    IMPORTED_SONAME libnccl.so.2
    INTERFACE_INCLUDE_DIRECTORIES "${_nccl_dir}/include")
endif()
message(STATUS "LibTorch: ${_torch_dir} (CUDA ${SYNCBN_HAVE_CUDA}, NCCL ${SYNCBN_HAVE_NCCL})")

find_package(MPI 3.1 REQUIRED COMPONENTS CXX)
find_package(OpenMP REQUIRED COMPONENTS CXX)
# LibTorch's wheel brings an OpenMP run-time library under the system's file name. One process must
# have one: LibTorch's own.
if(EXISTS "${_torch_dir}/lib/libgomp.so.1")
  set_target_properties(OpenMP::OpenMP_CXX PROPERTIES
    INTERFACE_LINK_LIBRARIES "${_torch_dir}/lib/libgomp.so.1")
endif()
find_package(Boost 1.74 REQUIRED COMPONENTS program_options)
find_package(spdlog REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(OpenSSL 3 REQUIRED COMPONENTS Crypto)
