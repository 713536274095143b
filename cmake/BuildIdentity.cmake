# Writes build_identity.cpp: the commit of the source tree, and whether its files differ from it.
# Run as a script at each build, with SOURCE_DIR, TEMPLATE and OUTPUT. The file is touched only when what
# it says changes, so that an unchanged tree compiles and links nothing.

# "unknown" outside a checkout, without git, or where another project's checkout holds this tree.
set(commit unknown)
set(changed unknown)

function(git result)
  execute_process(COMMAND git ${ARGN} WORKING_DIRECTORY "${SOURCE_DIR}" RESULT_VARIABLE status
    OUTPUT_VARIABLE text ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    set(text NOTFOUND)
  endif()
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

git(top rev-parse --show-toplevel)
if(top AND EXISTS "${top}")
  file(REAL_PATH "${top}" top)
  file(REAL_PATH "${SOURCE_DIR}" source)
  git(head rev-parse HEAD)
  if(top STREQUAL source AND head)
    set(commit ${head})
    git(changes --no-optional-locks status --porcelain --untracked-files=no)
    if(changes STREQUAL "")
      set(changed no)
    elseif(changes)
      set(changed yes)
    endif()
  endif()
endif()
configure_file("${TEMPLATE}" "${OUTPUT}" @ONLY)
