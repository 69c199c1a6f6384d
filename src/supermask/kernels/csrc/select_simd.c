/* Exact selection of the k largest of n numbers.
 *
 * The bits of a float, seen as an integer with the negative ones turned round, have the order of the numbers. A histogram of
 * their highest bits tells in which bin the k-th largest lies; the members of this bin are taken out, and sorted out further
 * by the next bits. How long it takes hardly depends on the values. Of many values only those are ranked that lie between two
 * bounds from a sample; should the sample mislead, all are. */
#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(VARIANT_avx512)
#include <immintrin.h>
#endif

enum { BIN_BITS = 11, BINS = 1 << BIN_BITS, LANES = 4, BLOCK = 4096, SLACK = 16, MANY = 1 << 17 };
#define MOST_COUNTED ((size_t)1 << 31) /* that a bin of 32 bits holds for certain */

#define FLOAT float
#define KEY uint32_t
#define SIGNED_KEY int32_t
#define NAMED(name) name##_float
#if defined(VARIANT_avx512)
#define COMPRESS 16
static inline size_t compress_float(const float *values, float low, float high, float *found) {
    __m512 all = _mm512_loadu_ps(values);
    __mmask16 within = _mm512_cmp_ps_mask(all, _mm512_set1_ps(low), _CMP_GE_OQ) &
                       _mm512_cmp_ps_mask(all, _mm512_set1_ps(high), _CMP_LE_OQ);
    _mm512_storeu_ps(found, _mm512_maskz_compress_ps(within, all));
    return (size_t)__builtin_popcount(within);
}
#endif
#include "select_template.h"
#undef COMPRESS
#undef FLOAT
#undef KEY
#undef SIGNED_KEY
#undef NAMED

#define FLOAT double
#define KEY uint64_t
#define SIGNED_KEY int64_t
#define NAMED(name) name##_double
#include "select_template.h"
