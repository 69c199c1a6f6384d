/* Vectors of floats for the sparse kernels: one source for every variant, with the few operations that need an instruction
 * of their own. LANES floats a vector; included by *_simd.c alone. */
#ifndef SMK_SPARSE_VECTOR_H
#define SMK_SPARSE_VECTOR_H

#include <stdint.h>

#if defined(VARIANT_avx512)
#include <immintrin.h>
#define LANES 16
#elif defined(VARIANT_avx2)
#include <immintrin.h>
#define LANES 8
#else
#if defined(VARIANT_neon)
#include <arm_neon.h>
#endif
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(4 * LANES), may_alias));
typedef float Anywhere __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t AnyBits __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));

INLINE Vector load(const float *from) { return *(const Vector *)from; }
INLINE Vector load_anywhere(const float *from) { return *(const Anywhere *)from; }
INLINE void store(float *to, Vector v) { *(Vector *)to = v; }
INLINE Vector all(float value) { return value - (Vector){0}; }
INLINE Vector keep(Vector v, Bits mask) { return (Vector)((Bits)v & mask); }
INLINE Vector either(Bits mask, Vector yes, Vector no) { return (Vector)((mask & (Bits)yes) | (~mask & (Bits)no)); }

#if defined(VARIANT_avx512)
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE Vector larger(Vector a, Vector b) { return (Vector)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Vector smaller(Vector a, Vector b) { return (Vector)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(VARIANT_avx2)
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE Vector larger(Vector a, Vector b) { return (Vector)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE Vector smaller(Vector a, Vector b) { return (Vector)_mm256_min_ps((__m256)a, (__m256)b); }
#elif defined(VARIANT_neon)
INLINE Vector multiply_add(Vector a, Vector b, Vector c) {
    return (Vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
INLINE Vector larger(Vector a, Vector b) { return (Vector)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE Vector smaller(Vector a, Vector b) { return (Vector)vminq_f32((float32x4_t)a, (float32x4_t)b); }
#else
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
INLINE Vector larger(Vector a, Vector b) { return either((Bits)(a > b), a, b); }
INLINE Vector smaller(Vector a, Vector b) { return either((Bits)(a < b), a, b); }
#endif

/* One lane of multiply_add. */
INLINE float multiply_add_one(float a, float b, float c) {
#if defined(VARIANT_generic)
    return a * b + c;
#else
    return __builtin_fmaf(a, b, c);
#endif
}

/* Lane i of the result is lane index[i] of low and high one after the other; 0 <= index[i] < 2 LANES. */
INLINE Vector pick(Vector low, Vector high, Bits index) {
#if defined(VARIANT_avx512)
    return (Vector)_mm512_permutex2var_ps((__m512)low, (__m512i)index, (__m512)high);
#elif defined(VARIANT_avx2)
    const __m256 from_low = _mm256_permutevar8x32_ps((__m256)low, (__m256i)index);
    const __m256 from_high = _mm256_permutevar8x32_ps((__m256)high, (__m256i)index);
    const __m256i second = _mm256_cmpgt_epi32((__m256i)index, _mm256_set1_epi32(LANES - 1));
    return (Vector)_mm256_blendv_ps(from_low, from_high, _mm256_castsi256_ps(second));
#else
    const Vector both[2] = {low, high};
    Vector result;
    for (int i = 0; i < LANES; i++) result[i] = both[index[i] / LANES][index[i] % LANES];
    return result;
#endif
}

INLINE Bits lane_numbers(void) {
    Bits lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    return lanes;
}

/* Transpose LANES vectors: log2(LANES) perfect shuffles of the whole. */
INLINE void transpose(Vector *v) {
    for (int round = 1; round < LANES; round *= 2) {
        Vector next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            Vector a = v[i], b = v[i + LANES / 2];
#if LANES == 16
            next[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            next[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LANES == 8
            next[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
            next[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
            next[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            next[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
        }
        for (int i = 0; i < LANES; i++) v[i] = next[i];
    }
}

/* 2^n and exp(r) - 1 with x = n ln 2 + r, |r| <= ln(2) / 2, for -87 <= x <= 0. The polynomial is a minimax fit of
 * (exp(r) - 1 - r) / r^2 with a relative error of 1.3e-8 in exp(r) - 1. ln 2 as high + low: a low part of 0 leaves a
 * relative error of 2e-9 n in exp(x), which does not show in exp(x) - 1. */
INLINE void split_exp(Vector x, float high, float low, Vector *power, Vector *rest) {
    const Vector round = all(12582912.0f); /* 1.5 * 2^23: its last bits hold the nearest whole number */
    Vector shifted = multiply_add(x, all(1.44269504f), round);
    Vector n = shifted - round;
    Vector r = multiply_add(n, all(-high), x);
    if (low != 0.0f) r = multiply_add(n, all(-low), r);
    Vector q = multiply_add(r, all(0.00138825166f), all(0.00836654752f));
    q = multiply_add(q, r, all(0.0416672006f));
    q = multiply_add(q, r, all(0.166665435f));
    q = multiply_add(q, r, all(0.49999997f));
    *rest = multiply_add(r * r, q, r);
    *power = (Vector)(((Bits)shifted << 23) + (Bits)all(1.0f));
}

/* exp(x) - 1 and exp(x) for x <= 0, within 2 units of the last place. */
INLINE Vector exp_minus_one(Vector x) {
    Vector power, rest;
    split_exp(larger(x, all(-87.0f)), 0.693147182f, 0.0f, &power, &rest);
    return multiply_add(power, rest, power - all(1.0f));
}
INLINE Vector exp_negative(Vector x) {
    Vector power, rest;
    split_exp(larger(x, all(-87.0f)), 0.693145752f, 1.42860677e-6f, &power, &rest);
    return multiply_add(power, rest, power);
}

INLINE Vector magnitude(Vector x) { return (Vector)((Bits)x & 0x7fffffff); }
INLINE Vector with_sign_of(Vector x, Vector sign) { return (Vector)((Bits)x | ((Bits)sign & (int32_t)0x80000000)); }

INLINE Vector sigmoid(Vector x) {
    Vector e = exp_negative(-magnitude(x));
    Vector d = all(1.0f) / (all(1.0f) + e);
    return either((Bits)(x >= all(0.0f)), d, e * d);
}

INLINE Vector hyperbolic_tangent(Vector x) {
    Vector e = exp_minus_one(-(magnitude(x) + magnitude(x)));
    return with_sign_of(-e / (e + all(2.0f)), x);
}

/* x (1 + erf(x / sqrt 2)) / 2, erf by the rational approximation 7.1.26 of Abramowitz and Stegun, error 1.5e-7. */
INLINE Vector gelu(Vector x) {
    Vector z = magnitude(x) * all(0.707106781f);
    Vector t = all(1.0f) / multiply_add(z, all(0.3275911f), all(1.0f));
    Vector p = multiply_add(t, all(1.061405429f), all(-1.453152027f));
    p = multiply_add(p, t, all(1.421413741f));
    p = multiply_add(p, t, all(-0.284496736f));
    p = multiply_add(p, t, all(0.254829592f)) * t;
    Vector tail = p * exp_negative(-z * z); /* 1 - erf(|x| / sqrt 2) */
    Vector twice = either((Bits)(x >= all(0.0f)), all(2.0f) - tail, tail);
    return x * all(0.5f) * twice;
}

#endif
