# The target `uninstall`: runs the uninstall of the installation that this build has made last.
if(NOT EXISTS ${BUILD}/install_manifest.txt)
    message(FATAL_ERROR "nothing was installed from ${BUILD}")
endif()
file(STRINGS ${BUILD}/install_manifest.txt script REGEX "share/mlx-ollama/uninstall$")
if(NOT EXISTS "$ENV{DESTDIR}${script}")
    message(FATAL_ERROR "$ENV{DESTDIR}${script} is gone: uninstalled already?")
endif()
execute_process(COMMAND $ENV{DESTDIR}${script} COMMAND_ERROR_IS_FATAL ANY)
