/* RFC 3629 section 4: which byte sequences are characters. */
#include "base/base.h"

/* Length of the character that starts with lead, 0 when none can; the second byte's range is narrower for
 * some. */
static unsigned character_length(uint8_t lead, uint8_t *second_low, uint8_t *second_high) {
    *second_low = 0x80;
    *second_high = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2) return 0; /* a continuation byte, or an overlong form */
    if (lead < 0xe0) return 2;
    if (lead < 0xf0) {
        if (lead == 0xe0) *second_low = 0xa0;  /* overlong below */
        if (lead == 0xed) *second_high = 0x9f; /* surrogates above */
        return 3;
    }
    if (lead < 0xf5) {
        if (lead == 0xf0) *second_low = 0x90;
        if (lead == 0xf4) *second_high = 0x8f; /* U+10FFFF is the last */
        return 4;
    }
    return 0;
}

size_t lm_utf8_valid(lm_str s, bool *bad) {
    const uint8_t *p = (const uint8_t *)s.ptr;
    size_t i = 0;
    if (bad) *bad = false;
    while (i < s.len) {
        uint8_t low, high;
        unsigned n = character_length(p[i], &low, &high);
        bool wrong = n == 0;
        unsigned k = 1;
        for (; k < n && i + k < s.len && !wrong; k++) {
            wrong = p[i + k] < low || p[i + k] > high;
            low = 0x80;
            high = 0xbf;
        }
        if (wrong || k < n) {
            if (bad) *bad = wrong;
            return i;
        }
        i += n;
    }
    return i;
}
