# The Debian package: `cpack -G DEB` in a build directory. MLX's module stays out of it, as Debian has no MLX; who wants it
# builds from source (docs/MLX.md).
set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL programs)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_NAME mlx-ollama)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR})
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_NAME mlx-ollama)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS curl)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
# Its first line is the short description, the others the long one.
set(CPACK_DEBIAN_PROGRAMS_DESCRIPTION "MLX-format models behind Ollama's API
Serves models in the format of Apple's MLX to whatever talks to Ollama: its
command line, its Python and JavaScript clients, LangChain, Continue, curl.
OpenAI's and Anthropic's APIs are spoken, too. Models are mapped, not loaded;
GGUF models, those of an existing Ollama among them, are imported.

Besides the server there are a router between it and a real Ollama, with a
command line, a manager of the service, and a program that checks all of it.
This package computes on the CPU.")
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_LIST_DIR}/maintainer.cmake)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/finish.cmake)
set(CPACK_LM_SOURCE ${CMAKE_SOURCE_DIR})
set(CPACK_LM_PYTHON ${Python3_EXECUTABLE})
include(CPack)
