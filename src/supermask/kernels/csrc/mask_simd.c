/* Values times a mask in one pass: torch first makes floats of the mask. Products keep the signs of zeros, and NaN. */
#include "kernels.h"

int SMK_SIMD(smk_mask)(float *restrict values, const uint8_t *restrict mask, int64_t count) {
    if (count < 0) return SMK_BAD_INPUT;
    for (int64_t i = 0; i < count; i++) values[i] *= (float)mask[i];
    return SMK_OK;
}
