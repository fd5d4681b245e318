# What Debian wants otherwise than an installation has it: compressed man pages, a changelog, the licences of all that is
# inside, zsh's completions where Debian's zsh looks.
foreach(root ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/programs)
    set(doc ${root}/usr/share/doc/mlx-ollama)
    file(REMOVE ${doc}/LICENSE)
    file(RENAME ${root}/usr/share/zsh/site-functions ${root}/usr/share/zsh/vendor-completions)
    execute_process(COMMAND ${CPACK_LM_PYTHON} ${CPACK_LM_SOURCE}/packaging/deb/make-copyright ${doc}/copyright
        COMMAND_ERROR_IS_FATAL ANY)
    # The time of the last change of the source, so that a package can be made again to the bit.
    if(DEFINED ENV{SOURCE_DATE_EPOCH})
        set(time $ENV{SOURCE_DATE_EPOCH})
    else()
        execute_process(COMMAND git -C ${CPACK_LM_SOURCE} log -1 --format=%ct OUTPUT_VARIABLE time OUTPUT_STRIP_TRAILING_WHITESPACE
            ERROR_QUIET)
    endif()
    if(NOT time)
        string(TIMESTAMP time "%s" UTC)
    endif()
    set(ENV{SOURCE_DATE_EPOCH} ${time})
    string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
    file(WRITE ${doc}/changelog "mlx-ollama (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium\n\n"
        "  * Built from source; its history is the project's.\n\n -- ${CPACK_DEBIAN_PACKAGE_MAINTAINER}  ${date}\n")
    file(GLOB pages ${root}/usr/share/man/man1/*.1)
    foreach(file ${pages} ${doc}/changelog)
        execute_process(COMMAND gzip -9nf ${file} COMMAND_ERROR_IS_FATAL ANY)
    endforeach()
endforeach()
