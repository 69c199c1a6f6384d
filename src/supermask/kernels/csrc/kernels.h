/* Every exported function of the compiled kernels, and what their sources share.
 *
 * Rules: C11; a function returns SMK_OK or another status, never aborts and keeps no static mutable state; what may come
 * from a file is checked before it is used. Arrays are contiguous; lengths are in entries.
 *
 * A file named *_simd.c is compiled once for each variant of the processor, with VARIANT defined as generic, avx2, avx512
 * or neon; its exported functions are named SMK_SIMD(name), that is name_generic, name_avx2 and so on. All others are
 * compiled once, for every processor of the architecture.
 *
 * The library carries a hash of this file: a library that was built from other declarations is not loaded.
 */
#ifndef SMK_KERNELS_H
#define SMK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define SMK_EXPORT __attribute__((visibility("default")))

#define SMK_JOIN_(name, variant) name##_##variant
#define SMK_JOIN(name, variant) SMK_JOIN_(name, variant)
#define SMK_SIMD(name) SMK_JOIN(name, VARIANT)

enum {
    SMK_OK = 0,
    SMK_NO_MEMORY = 1, /* an allocation failed; nothing is left behind */
    SMK_BAD_INPUT = 2, /* an argument or the content of an array is out of its range */
    SMK_NAN = 3,       /* a value is not a number */
};

/* ---- support.c ------------------------------------------------------------------------------------------------ */

/* The hash of this file that the library was built with. */
SMK_EXPORT uint64_t smk_declarations(void);

/* Variants that were compiled and that this processor runs: bit 0 generic, 1 avx2, 2 avx512, 3 neon. */
SMK_EXPORT int smk_variants(void);

/* Call work(context, i) for every i in [0, count), shared between at most `threads` threads, of which the caller is one.
 * Threads take the next i as they come free. They are made for this call and joined before it returns, with all signals
 * blocked; where the system gives fewer threads, fewer do the work. */
void smk_parallel(int threads, size_t count, void (*work)(void *context, size_t i), void *context);

/* ---- ternary_simd.c ------------------------------------------------------------------------------------------- */

#ifdef VARIANT
/* weight = scale where score > threshold, -scale where score < -threshold, else 0. threshold >= 0. */
SMK_EXPORT int SMK_SIMD(smk_ternary)(const float *score, float *weight, int64_t count, float threshold, float scale);

/* weight = frozen * (1 where score > high, -1 where score < low, else 0; 0 where both). */
SMK_EXPORT int SMK_SIMD(smk_ternary_between)(const float *score, const float *frozen, float *weight, int64_t count,
                                             float low, float high);

/* The same with frozen = sign * scale. */
SMK_EXPORT int SMK_SIMD(smk_ternary_signs)(const float *score, const int8_t *sign, float *weight, int64_t count,
                                           float low, float high, float scale);

/* result = gradient * sign * scale: the gradient of the score for the weight that smk_ternary_signs gives. */
SMK_EXPORT int SMK_SIMD(smk_signed_gradient)(const float *gradient, const int8_t *sign, float *result, int64_t count,
                                             float scale);
#endif

/* ---- mask_simd.c ---------------------------------------------------------------------------------------------- */

#ifdef VARIANT
/* values *= mask, which is made of bytes 0 and 1. */
SMK_EXPORT int SMK_SIMD(smk_mask)(float *values, const uint8_t *mask, int64_t count);
#endif

/* ---- sgd_simd.c ----------------------------------------------------------------------------------------------- */

#ifdef VARIANT
/* One step of SGD with momentum and decoupled decay on `tensors` tensors of `counts` entries:
 *     p <- p * keep;  m <- m * momentum + g;  p <- p - rate * (g + momentum * m), or p - rate * m without nesterov.
 * It rounds where torch's fused kernel with vectors of `width` entries does: the momentum's sum is rounded twice, in what
 * remains behind the last whole vector once; the other sums are rounded once. */
SMK_EXPORT int SMK_SIMD(smk_sgd)(int64_t tensors, float *const *params, const float *const *gradients,
                                 float *const *momenta, const int64_t *counts, int64_t width, float keep,
                                 float momentum, float rate, int nesterov);
#endif

/* ---- select_simd.c -------------------------------------------------------------------------------------------- */

#ifdef VARIANT
/* result = the rank-th largest of `count` values, 1 <= rank <= count; SMK_NAN if one is not a number. */
SMK_EXPORT int SMK_SIMD(smk_kth_float)(const float *values, int64_t count, int64_t rank, float *result);
SMK_EXPORT int SMK_SIMD(smk_kth_double)(const double *values, int64_t count, int64_t rank, double *result);

/* mask = 1 for the `rank` largest, else 0; of equal ones the earlier is kept. */
SMK_EXPORT int SMK_SIMD(smk_largest_float)(const float *values, int64_t count, int64_t rank, uint8_t *mask);
SMK_EXPORT int SMK_SIMD(smk_largest_double)(const double *values, int64_t count, int64_t rank, uint8_t *mask);

/* The same of the magnitudes of the values. */
SMK_EXPORT int SMK_SIMD(smk_kth_magnitude_float)(const float *values, int64_t count, int64_t rank, float *result);
SMK_EXPORT int SMK_SIMD(smk_kth_magnitude_double)(const double *values, int64_t count, int64_t rank, double *result);
SMK_EXPORT int SMK_SIMD(smk_largest_magnitude_float)(const float *values, int64_t count, int64_t rank, uint8_t *mask);
SMK_EXPORT int SMK_SIMD(smk_largest_magnitude_double)(const double *values, int64_t count, int64_t rank, uint8_t *mask);
#endif

/* ---- sparse_simd.c -------------------------------------------------------------------------------------------- */

#ifdef VARIANT
/* Floats of a vector. It returns the number, not a status. */
SMK_EXPORT int SMK_SIMD(smk_sparse_lanes)(void);

/* Run a program that sparse_lowering.py made, on x[images][...], with results to y[images][...]. `description`: addresses of
 * the operations, their number, addresses of ints and floats, floats of an image of x and of y, images worked on together,
 * floats of working memory of a thread. `arena` is that memory for all threads, aligned to a vector. */
SMK_EXPORT int SMK_SIMD(smk_sparse_run)(const int64_t *description, const float *x, float *y, int64_t images,
                                        float *arena, int32_t threads);
#endif

/* ---- rice.c --------------------------------------------------------------------------------------------------- */

/* Positions of `count` members of {0 ... universe - 1}, increasing, from a code of `size` bytes that may hold anything. */
SMK_EXPORT int smk_rice_decode(const uint8_t *code, int64_t size, int64_t count, int64_t universe, int64_t *positions);

#endif
