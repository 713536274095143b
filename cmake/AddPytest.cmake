# syncbn_add_pytest(NAME … PATH … [LABELS …] [TIMEOUT seconds] [PROCESSORS n] [NIGHTLY])
#
# Registers a file (or folder) of pytest tests, relative to the current source folder, as one test.
# It runs with the Python of SYNCBN_VENV, and finds the programs in the folder that the environment
# variable SYNCBN_BUILD_DIR names. What the file marks with pytest.mark.nightly is left out of this
# test; with NIGHTLY it is a test of its own, NAME_nightly with the label nightly.
function(syncbn_add_pytest)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "NIGHTLY" "NAME;PATH;TIMEOUT;PROCESSORS" "LABELS")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_PROCESSORS)
    set(ARG_PROCESSORS 1)
  endif()
  _syncbn_add_pytest(${ARG_NAME} "not nightly" "${ARG_LABELS}")
  if(ARG_NIGHTLY)
    _syncbn_add_pytest(${ARG_NAME}_nightly "nightly" "nightly;${ARG_LABELS}")
  endif()
endfunction()

macro(_syncbn_add_pytest NAME MARKED LABELS)
  add_test(NAME ${NAME}
    COMMAND "${SYNCBN_VENV}/bin/python" -m pytest -q -p no:cacheprovider -m "${MARKED}"
            "${CMAKE_CURRENT_SOURCE_DIR}/${ARG_PATH}"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(${NAME} PROPERTIES
    LABELS "${LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${ARG_PROCESSORS}
    ENVIRONMENT "SYNCBN_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
endmacro()
