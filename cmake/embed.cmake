# lm_embed(ROOM FILE SYMBOL): the bytes of src/ROOM/FILE as `const unsigned char SYMBOL[]`, with `const size_t SYMBOL_size`.
# Run as a script (-DIN= -DOUT= -DSYMBOL=) it writes that C file.
if(CMAKE_SCRIPT_MODE_FILE)
    file(READ "${IN}" hex HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
    file(WRITE "${OUT}" "#include <stddef.h>\nextern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_size;\n"
        "const unsigned char ${SYMBOL}[] = {${bytes}};\nconst size_t ${SYMBOL}_size = sizeof ${SYMBOL};\n")
    return()
endif()

set(LM_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})
function(lm_embed room file symbol)
    set(in ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    set(out ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.c)
    add_custom_command(OUTPUT ${out} DEPENDS ${in} ${LM_EMBED_SCRIPT}
        COMMAND ${CMAKE_COMMAND} -DIN=${in} -DOUT=${out} -DSYMBOL=${symbol} -P ${LM_EMBED_SCRIPT})
    target_sources(lm_${room} PRIVATE ${out})
endfunction()
