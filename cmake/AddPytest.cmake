# syncbn_add_pytest(NAME … PATH … [LABELS …] [TIMEOUT seconds] [PROCESSORS n])
#
# Registers a file (or folder) of pytest tests, relative to the current source folder, as one test.
# It runs with the Python of SYNCBN_VENV, and finds the programs in the folder that the environment
# variable SYNCBN_BUILD_DIR names.
function(syncbn_add_pytest)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;PATH;TIMEOUT;PROCESSORS" "LABELS")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_PROCESSORS)
    set(ARG_PROCESSORS 1)
  endif()
  add_test(NAME ${ARG_NAME}
    COMMAND "${SYNCBN_VENV}/bin/python" -m pytest -q -p no:cacheprovider
            "${CMAKE_CURRENT_SOURCE_DIR}/${ARG_PATH}"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(${ARG_NAME} PROPERTIES
    LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${ARG_PROCESSORS}
    ENVIRONMENT "SYNCBN_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
endfunction()
