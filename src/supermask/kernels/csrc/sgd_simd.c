/* A step of SGD in one pass over each tensor. */
#include "kernels.h"

#include <math.h>

static void whole_vectors(float *restrict p, const float *restrict g, float *restrict m, int64_t count, float keep,
                          float momentum, float rate, int nesterov) {
    for (int64_t i = 0; i < count; i++) {
        float velocity = m[i] * momentum + g[i];
        m[i] = velocity;
        float move = nesterov ? fmaf(velocity, momentum, g[i]) : velocity;
        p[i] = fmaf(move, -rate, p[i] * keep);
    }
}

static void remainder_of(float *restrict p, const float *restrict g, float *restrict m, int64_t count, float keep,
                         float momentum, float rate, int nesterov) {
    for (int64_t i = 0; i < count; i++) {
        float velocity = fmaf(m[i], momentum, g[i]);
        m[i] = velocity;
        float move = nesterov ? fmaf(velocity, momentum, g[i]) : velocity;
        p[i] = fmaf(move, -rate, p[i] * keep);
    }
}

int SMK_SIMD(smk_sgd)(int64_t tensors, float *const *params, const float *const *gradients, float *const *momenta,
                      const int64_t *counts, int64_t width, float keep, float momentum, float rate, int nesterov) {
    if (tensors < 0 || width < 1) return SMK_BAD_INPUT;
    for (int64_t t = 0; t < tensors; t++) {
        if (counts[t] < 0) return SMK_BAD_INPUT;
        int64_t whole = counts[t] / width * width, rest = counts[t] - whole;
        float *p = params[t], *m = momenta[t];
        const float *g = gradients[t];
        if (nesterov)
            whole_vectors(p, g, m, whole, keep, momentum, rate, 1);
        else
            whole_vectors(p, g, m, whole, keep, momentum, rate, 0);
        remainder_of(p + whole, g + whole, m + whole, rest, keep, momentum, rate, nesterov);
    }
    return SMK_OK;
}
