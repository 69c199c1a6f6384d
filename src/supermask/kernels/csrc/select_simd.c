/* Exact selection of the k largest of n numbers.
 *
 * The bits of a float, seen as an integer with the negative ones turned round, have the order of the numbers. A histogram of
 * their highest bits tells in which bin the k-th largest lies; the members of this bin are taken out, and sorted out further
 * by the next bits. How long it takes hardly depends on the values. Of many values only those are ranked that lie between two
 * bounds from a sample, in one pass that makes the mask of the others too; should the sample mislead, all are. */
#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(VARIANT_avx512) || defined(VARIANT_avx2)
#include <immintrin.h>
#endif

enum { BIN_BITS = 11, BINS = 1 << BIN_BITS, LANES = 4, BLOCK = 4096, SLACK = 16, FEW = 16, MANY = 1 << 17, SAMPLE = 8192 };
#define MOST_COUNTED ((size_t)1 << 31) /* that a bin of 32 bits holds for certain */

#define FLOAT float
#define KEY uint32_t
#define SIGNED_KEY int32_t
#define NAMED(name) name##_float
#if defined(VARIANT_avx512)
#define SEE_VECTORS see_vectors
static size_t see_vectors(const float *restrict from, size_t start, size_t count, float low, float high, uint32_t bits,
                          int strict, float *restrict found, uint32_t *restrict places, size_t *used, uint32_t *above,
                          uint32_t *reached, uint32_t *nan, uint8_t *restrict mask) {
    const __m512 lows = _mm512_set1_ps(low), highs = _mm512_set1_ps(high);
    const __m512i kept = _mm512_set1_epi32((int)bits), step = _mm512_set1_epi32(16);
    __m512i place = _mm512_add_epi32(_mm512_set1_epi32((int)start),
                                     _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    size_t next = *used, i = 0;
    uint32_t over = 0, not_below = 0;
    __mmask16 bad = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512 v = _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from + i), kept));
        const __mmask16 top = _mm512_cmp_ps_mask(v, highs, _CMP_GE_OQ);
        const __mmask16 within = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, highs, _CMP_LT_OQ), v, lows, _CMP_GT_OQ);
        bad |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        const __mmask16 beyond = _mm512_cmp_ps_mask(v, highs, _CMP_GT_OQ);
        over += (uint32_t)__builtin_popcount(beyond);
        not_below += (uint32_t)__builtin_popcount(top);
        if (mask) _mm_storeu_si128((__m128i *)(mask + i), _mm_maskz_set1_epi8(strict ? beyond : top, 1));
        _mm512_storeu_ps(found + next, _mm512_maskz_compress_ps(within, v));
        _mm512_storeu_si512(places + next, _mm512_maskz_compress_epi32(within, place));
        next += (size_t)__builtin_popcount(within);
        place = _mm512_add_epi32(place, step);
    }
    *used = next;
    *above += over;
    *reached += not_below;
    *nan |= bad != 0;
    return i;
}
#elif defined(VARIANT_avx2)
#define SEE_VECTORS see_vectors
static size_t see_vectors(const float *restrict from, size_t start, size_t count, float low, float high, uint32_t bits,
                          int strict, float *restrict found, uint32_t *restrict places, size_t *used, uint32_t *above,
                          uint32_t *reached, uint32_t *nan, uint8_t *restrict mask) {
    const __m256 lows = _mm256_set1_ps(low), highs = _mm256_set1_ps(high);
    const __m256 kept = _mm256_castsi256_ps(_mm256_set1_epi32((int)bits));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i ones = _mm256_set1_epi8(1);
    __m256 bad = _mm256_setzero_ps();
    size_t next = *used, i = 0;
    uint32_t over = 0, not_below = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i chosen[4];
        uint32_t within = 0, top = 0, beyond = 0;
        for (int k = 0; k < 4; k++) {
            const __m256 v = _mm256_and_ps(_mm256_loadu_ps(from + i + 8 * k), kept);
            const __m256 reaches = _mm256_cmp_ps(v, highs, _CMP_GE_OQ), exceeds = _mm256_cmp_ps(v, highs, _CMP_GT_OQ);
            const __m256 inside = _mm256_and_ps(_mm256_cmp_ps(v, highs, _CMP_LT_OQ), _mm256_cmp_ps(v, lows, _CMP_GT_OQ));
            chosen[k] = _mm256_castps_si256(strict ? exceeds : reaches);
            within |= (uint32_t)_mm256_movemask_ps(inside) << (8 * k);
            top |= (uint32_t)_mm256_movemask_ps(reaches) << (8 * k);
            beyond |= (uint32_t)_mm256_movemask_ps(exceeds) << (8 * k);
            bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        }
        not_below += (uint32_t)__builtin_popcount(top);
        over += (uint32_t)__builtin_popcount(beyond);
        if (mask) { /* packs work in halves: the groups of four are put back in order */
            const __m256i first = _mm256_packs_epi32(chosen[0], chosen[1]);
            const __m256i second = _mm256_packs_epi32(chosen[2], chosen[3]);
            const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order);
            _mm256_storeu_si256((__m256i *)(mask + i), _mm256_and_si256(bytes, ones));
        }
        for (; within; within &= within - 1) {
            const size_t at = i + (size_t)__builtin_ctz(within);
            found[next] = bits >> 31 ? from[at] : fabsf(from[at]);
            places[next++] = (uint32_t)(start + at);
        }
    }
    *used = next;
    *above += over;
    *reached += not_below;
    *nan |= _mm256_movemask_ps(bad) != 0;
    return i;
}
#endif
#include "select_template.h"
#undef SEE_VECTORS
#undef FLOAT
#undef KEY
#undef SIGNED_KEY
#undef NAMED

#define FLOAT double
#define KEY uint64_t
#define SIGNED_KEY int64_t
#define NAMED(name) name##_double
#include "select_template.h"
