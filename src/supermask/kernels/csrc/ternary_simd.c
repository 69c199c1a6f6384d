/* Ternary straight-through in one pass each way. Products are formed in the order in which torch forms them, so that results
 * are the same to the bit, signs of zeros included. Comparisons with NaN are false: a NaN score gives 0. */
#include "kernels.h"

int SMK_SIMD(smk_ternary)(const float *restrict score, float *restrict weight, int64_t count, float threshold,
                          float scale) {
    if (count < 0 || !(threshold >= 0.0f)) return SMK_BAD_INPUT;
    for (int64_t i = 0; i < count; i++) {
        float up = score[i] > threshold ? scale : 0.0f;
        weight[i] = score[i] < -threshold ? -scale : up;
    }
    return SMK_OK;
}

int SMK_SIMD(smk_ternary_between)(const float *restrict score, const float *restrict frozen, float *restrict weight,
                                  int64_t count, float low, float high) {
    if (count < 0) return SMK_BAD_INPUT;
    for (int64_t i = 0; i < count; i++) {
        float up = score[i] > high ? 1.0f : 0.0f, down = score[i] < low ? 1.0f : 0.0f;
        weight[i] = (up - down) * frozen[i];
    }
    return SMK_OK;
}

int SMK_SIMD(smk_ternary_signs)(const float *restrict score, const int8_t *restrict sign, float *restrict weight,
                                int64_t count, float low, float high, float scale) {
    if (count < 0) return SMK_BAD_INPUT;
    for (int64_t i = 0; i < count; i++) {
        float up = score[i] > high ? 1.0f : 0.0f, down = score[i] < low ? 1.0f : 0.0f;
        weight[i] = (up - down) * ((float)sign[i] * scale);
    }
    return SMK_OK;
}

int SMK_SIMD(smk_signed_gradient)(const float *restrict gradient, const int8_t *restrict sign, float *restrict result,
                                  int64_t count, float scale) {
    if (count < 0) return SMK_BAD_INPUT;
    for (int64_t i = 0; i < count; i++) result[i] = gradient[i] * (float)sign[i] * scale;
    return SMK_OK;
}
