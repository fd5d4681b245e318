/* frames.h (private to model/) - what rank 0 tells the others; the numbers of each kind are in mirror.c. */
#ifndef LM_MODEL_FRAMES_H
#define LM_MODEL_FRAMES_H

#include <stdint.h>

typedef enum lm_frame_kind {
    LM_FRAME_OPEN = 1,
    LM_FRAME_CLOSE,
    LM_FRAME_SEQ_OPEN,
    LM_FRAME_SEQ_CLOSE,
    LM_FRAME_SEQ_TRIM,
    LM_FRAME_SEQ_FORK,
    LM_FRAME_STEP,
    LM_FRAME_LAUNCH,
    LM_FRAME_PICK,
    LM_FRAME_FLIGHT_FREE,
    LM_FRAME_IDLE,
    LM_FRAME_STATES,
} lm_frame_kind;

#define LM_FRAME_NO_FLIGHT UINT32_MAX

#endif
