/* bits.h (private to weights/) - a float and the 32 bits that it is made of. */
#ifndef LM_WEIGHTS_BITS_H
#define LM_WEIGHTS_BITS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

#endif
