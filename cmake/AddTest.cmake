# syncbn_add_test(NAME name [RANKS 1 2 …] [GPU_RANKS 1 …] [CPU_ONLY Suite.Test …] [LABELS …]
#                 [TIMEOUT seconds])
#
# Builds tests/name.cpp. Without RANKS it is a serial test, run as `name`. With RANKS it is run under
# mpiexec as `name.np1`, `name.np2`, … on that many ranks (tests/support/mpi_main.hpp). GPU_RANKS adds
# `name.gpu.np1`, … which run the same tests with SYNCBN_TEST_DEVICE=cuda; they carry the label gpu,
# are run by `ctest -C gpu` only, and count as skipped where no device is. CPU_ONLY names the tests
# that they leave out, because what these assert is the CPU's.
#
# The tests share one precompiled header, because <torch/torch.h> costs 15 s per source.

find_package(GTest REQUIRED)

# What a job on one shared machine needs: any number of ranks, bound to no core, one thread each,
# no open socket, and cores that are given up while waiting.
set(SYNCBN_TEST_ENVIRONMENT
  OMPI_MCA_plm=isolated
  OMPI_MCA_btl=self,vader
  OMPI_MCA_btl_vader_single_copy_mechanism=none
  OMPI_MCA_hwloc_base_binding_policy=none
  OMPI_MCA_rmaps_base_oversubscribe=1
  OMPI_MCA_mpi_yield_when_idle=1
  OMP_NUM_THREADS=1 OMP_DYNAMIC=FALSE OMP_WAIT_POLICY=PASSIVE MKL_DYNAMIC=FALSE
  NCCL_RAS_ENABLE=0 NCCL_DEBUG=WARN NCCL_SOCKET_IFNAME=lo
  CUBLAS_WORKSPACE_CONFIG=:4096:8
  GTEST_COLOR=no
  SYNCBN_MPIEXEC=${MPIEXEC_EXECUTABLE}
  SYNCBN_BINARY_DIR=${PROJECT_BINARY_DIR})
execute_process(COMMAND id -u OUTPUT_VARIABLE _uid OUTPUT_STRIP_TRAILING_WHITESPACE)
if(_uid STREQUAL "0")
  list(APPEND SYNCBN_TEST_ENVIRONMENT OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
endif()

# Sanitizers: libraries that are not instrumented keep memory to the end (tests/support/leaks.supp;
# whole call stacks are needed to see that it is theirs), and fill containers unseen.
if(SYNCBN_SANITIZE)
  list(APPEND SYNCBN_TEST_ENVIRONMENT
    ASAN_OPTIONS=fast_unwind_on_malloc=0:detect_container_overflow=0
    LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/leaks.supp:print_suppressions=0
    UBSAN_OPTIONS=print_stacktrace=1
    TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/races.supp:second_deadlock_stack=1)
endif()

# The test mains; the first owns the precompiled header.
function(syncbn_add_test_mains)
  add_library(syncbn_mpi_main OBJECT support/mpi_main.cpp)
  target_link_libraries(syncbn_mpi_main PUBLIC syncbn syncbn::warnings GTest::gtest)
  target_include_directories(syncbn_mpi_main PUBLIC "${PROJECT_SOURCE_DIR}/tests")
  target_precompile_headers(syncbn_mpi_main PRIVATE <torch/torch.h> <gtest/gtest.h>)
  add_library(syncbn_serial_main OBJECT support/serial_main.cpp)
  target_link_libraries(syncbn_serial_main PUBLIC syncbn syncbn::warnings GTest::gtest)
  target_include_directories(syncbn_serial_main PUBLIC "${PROJECT_SOURCE_DIR}/tests")
  target_precompile_headers(syncbn_serial_main REUSE_FROM syncbn_mpi_main)
endfunction()

# One ctest entry of `target`: alone with 0 ranks, else under mpiexec.
function(_syncbn_add_ctest name target ranks timeout)
  cmake_parse_arguments(PARSE_ARGV 4 ARG "" "CONFIGURATION" "ENVIRONMENT;LABELS")
  set(command $<TARGET_FILE:${target}>)
  if(SYNCBN_SANITIZE)
    math(EXPR timeout "4 * ${timeout}")
  endif()
  set(processors 1)
  if(ranks GREATER 0)
    # mpiexec gives up before ctest does, so that it is mpiexec that ends all its ranks.
    math(EXPR mpi_timeout "${timeout} - 5")
    list(PREPEND command ${MPIEXEC_EXECUTABLE} --timeout ${mpi_timeout} -n ${ranks})
    list(APPEND ARG_ENVIRONMENT SYNCBN_EXPECTED_RANKS=${ranks})
  endif()
  if(ranks GREATER 1)
    set(processors 2)
  endif()
  add_test(NAME ${name} COMMAND ${command} CONFIGURATIONS ${ARG_CONFIGURATION})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} PROCESSORS ${processors}
    LABELS "${ARG_LABELS}" ENVIRONMENT "${SYNCBN_TEST_ENVIRONMENT};${ARG_ENVIRONMENT}")
endfunction()

function(syncbn_add_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "RANKS;GPU_RANKS;CPU_ONLY;LABELS" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS OR NOT ARG_NAME)
    message(FATAL_ERROR "syncbn_add_test(${ARGN}): expected NAME, RANKS, GPU_RANKS, CPU_ONLY, "
      "LABELS, TIMEOUT")
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  add_executable(${ARG_NAME} ${ARG_NAME}.cpp)
  target_precompile_headers(${ARG_NAME} REUSE_FROM syncbn_mpi_main)
  if(NOT ARG_RANKS)
    target_link_libraries(${ARG_NAME} PRIVATE syncbn_serial_main)
    _syncbn_add_ctest(${ARG_NAME} ${ARG_NAME} 0 ${ARG_TIMEOUT} LABELS ${ARG_LABELS})
    return()
  endif()
  target_link_libraries(${ARG_NAME} PRIVATE syncbn_mpi_main)
  foreach(ranks IN LISTS ARG_RANKS)
    _syncbn_add_ctest(${ARG_NAME}.np${ranks} ${ARG_NAME} ${ranks} ${ARG_TIMEOUT}
      LABELS ${ARG_LABELS})
  endforeach()
  list(JOIN ARG_CPU_ONLY ":" left_out)
  foreach(ranks IN LISTS ARG_GPU_RANKS)
    set(entry ${ARG_NAME}.gpu.np${ranks})
    _syncbn_add_ctest(${entry} ${ARG_NAME} ${ranks} ${ARG_TIMEOUT} CONFIGURATION gpu
      LABELS ${ARG_LABELS} gpu ENVIRONMENT SYNCBN_TEST_DEVICE=cuda "GTEST_FILTER=-${left_out}")
    set_tests_properties(${entry} PROPERTIES SKIP_RETURN_CODE 77)
  endforeach()
endfunction()
