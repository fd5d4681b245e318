/* foreign.h - reading what other programs print for people: --version, ldd, otool -L. Private to the room.
 *
 * What they print is taken as any bytes. */
#ifndef LM_DOCTOR_FOREIGN_H
#define LM_DOCTOR_FOREIGN_H

#include "base/base.h"

/* Takes the next line off rest, without its end; false: there is none any more. whole: it had an end (NULL allowed). */
bool foreign_line(lm_str *rest, lm_str *line, bool *whole);

/* "NAME 1.2.3" and an end of line or a blank behind it, as the first line: the version. False: it says something
 * else. */
bool foreign_version(lm_str text, const char *name, char out[64]);

/* Each library that ldd could not find ("libx.so.1 => not found"), with a blank between; how many they are. */
uint32_t foreign_ldd_missing(lm_str text, char out[256]);

/* Each library with an absolute path of which `there` says that it is not there, with a blank between; how many
 * they are. Those of the system below /usr/lib and /System are in the loader's cache, not on the disk, and those
 * that begin with @ the loader has found if the program runs. */
uint32_t foreign_otool_missing(lm_str text, bool (*there)(const char *path), char out[256]);

#endif
