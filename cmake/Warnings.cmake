# syncbn::warnings: the warnings of our own code, and the sanitizers when SYNCBN_SANITIZE is set.

option(SYNCBN_WERROR "Treat warnings as errors" OFF)
set(SYNCBN_SANITIZE "" CACHE STRING "Sanitizers, as GCC's -fsanitize= takes them (address,undefined)")

add_library(syncbn_warnings INTERFACE)
add_library(syncbn::warnings ALIAS syncbn_warnings)
target_compile_options(syncbn_warnings INTERFACE -Wall -Wextra -Wconversion -Wshadow)
if(SYNCBN_WERROR)
  target_compile_options(syncbn_warnings INTERFACE -Werror)
endif()
if(SYNCBN_SANITIZE)
  target_compile_options(syncbn_warnings INTERFACE
    -fsanitize=${SYNCBN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  # GCC's manual: with sanitizers this one is often wrong; it is, inside std::regex.
  target_compile_options(syncbn_warnings INTERFACE -Wno-maybe-uninitialized)
  target_link_options(syncbn_warnings INTERFACE -fsanitize=${SYNCBN_SANITIZE})
  # Function multiversioning resolves before the sanitizer's run time is up.
  target_compile_definitions(syncbn_warnings INTERFACE SYNCBN_NO_TARGET_CLONES)
endif()
