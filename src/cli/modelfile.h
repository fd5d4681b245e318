/* modelfile.h - the text of a Modelfile as its commands. Private to the room. What a server keeps of one is
 * store/modelfile.h's.
 *
 *     # a comment, at the beginning of a line
 *     FROM name, or a path
 *     PARAMETER name value
 *     MESSAGE system|user|assistant text
 *     TEMPLATE, SYSTEM, LICENSE, ADAPTER, RENDERER, PARSER, REQUIRES value
 *
 * A value goes to the end of its line, or stands in quotes, one or three, and may go over several lines then. Words of commands
 * are known in any case.
 *
 * Source: parser/parser.go of Ollama 0.17. It differs in two things: several blanks between words count as one, and of what does
 * not print only control characters are left out (Ollama drops all that Go's unicode tables have no picture for: the joiners
 * within an emoji, blanks of other scripts).
 */
#ifndef LM_CLI_MODELFILE_H
#define LM_CLI_MODELFILE_H

#include "base/base.h"

#define MODELFILE_MAX_BYTES (16u << 20)

typedef enum modelfile_kind {
    MODELFILE_FROM,
    MODELFILE_ADAPTER,
    MODELFILE_TEMPLATE,
    MODELFILE_SYSTEM,
    MODELFILE_LICENSE,
    MODELFILE_RENDERER,
    MODELFILE_PARSER,
    MODELFILE_REQUIRES,
    MODELFILE_PARAMETER,
    MODELFILE_MESSAGE,
} modelfile_kind;

typedef struct modelfile_command {
    modelfile_kind kind;
    char *name; /* of a PARAMETER; the role of a MESSAGE; else NULL */
    char *value;
    uint32_t line; /* where it begins, from 1 on */
} modelfile_command;

typedef struct modelfile {
    modelfile_command *commands;
    uint32_t n, room;
} modelfile;

/* LM_INVALID: "line N: ..."; LM_TOO_LARGE. *out is written on success only; the caller releases it. */
lm_status modelfile_parse(lm_str text, modelfile *out, lm_err *err) LM_CHECKED;
void modelfile_release(modelfile *m); /* a zeroed one is allowed */

const char *modelfile_word(modelfile_kind kind); /* "FROM" */

#endif
