/* Calls every compiled kernel as the package does, on arrays of exactly the size that it may touch.
 *
 *     program LIBRARY VARIANT CASE...
 *
 * Made and run by sanitize.py, under sanitizers and valgrind; cases are the calls that it wrote down. The library's malloc is
 * ours, so that an allocation can be made to fail. */
#define _POSIX_C_SOURCE 200809L

#define VARIANT generic /* only for the declarations: all variants of a function have one type */
#include "kernels.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))

/* A function of the library of this variant, declared as its name. */
#define SIMD(name) __typeof__(name##_generic) *name = function(#name, 1)

enum { OK = SMK_OK, NO_MEMORY = SMK_NO_MEMORY, BAD_INPUT = SMK_BAD_INPUT, NOT_A_NUMBER = SMK_NAN, CALLERS = 4 };

static void *library;
static const char *variant;
static atomic_int fails_in = -1; /* allocations until one fails; never if negative */

void *failing_malloc(size_t size);
void *failing_malloc(size_t size) {
    if (atomic_load(&fails_in) >= 0 && atomic_fetch_sub(&fails_in, 1) == 0) return NULL;
    return malloc(size);
}

static void fail(int line, const char *what) {
    fprintf(stderr, "program.c:%d: %s\n", line, what);
    exit(1);
}

/* A function of the library, of this variant if `simd`. */
static void *function(const char *name, int simd) {
    char full[64];
    snprintf(full, sizeof full, simd ? "%s_%s" : "%s", name, variant);
    void *found = dlsym(library, full);
    if (!found) fail(__LINE__, full);
    return found;
}

static uint64_t state = 1;

static double uniform(void) { /* xorshift, in [0, 1) */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}

static void *room(size_t count, size_t size) {
    void *memory = malloc(count * size ? count * size : 1);
    CHECK(memory);
    return memory;
}

static float *floats(size_t count) {
    float *values = room(count, sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = (float)(2.0 * uniform() - 1.0);
    return values;
}

static void ternary(size_t n) {
    SIMD(smk_ternary);
    SIMD(smk_ternary_between);
    SIMD(smk_ternary_signs);
    SIMD(smk_signed_gradient);
    float *score = floats(n), *frozen = floats(n), *weight = room(n, sizeof *weight);
    int8_t *sign = room(n, 1);
    for (size_t i = 0; i < n; i++) sign[i] = frozen[i] > 0 ? 1 : -1;
    if (n) score[n - 1] = NAN;
    int64_t count = (int64_t)n;
    CHECK(smk_ternary(score, weight, count, 0.3f, 2.0f) == OK);
    for (size_t i = 0; i < n; i++) CHECK(weight[i] == (score[i] > 0.3f ? 2.0f : score[i] < -0.3f ? -2.0f : 0.0f));
    CHECK(smk_ternary_between(score, frozen, weight, count, -0.2f, 0.4f) == OK);
    for (size_t i = 0; i < n; i++) CHECK(weight[i] == ((score[i] > 0.4f) - (score[i] < -0.2f)) * frozen[i]);
    CHECK(smk_ternary_signs(score, sign, weight, count, -INFINITY, 0.4f, 3.0f) == OK);
    for (size_t i = 0; i < n; i++) CHECK(weight[i] == (score[i] > 0.4f) * sign[i] * 3.0f);
    CHECK(smk_signed_gradient(frozen, sign, weight, count, 3.0f) == OK);
    for (size_t i = 0; i < n; i++) CHECK(weight[i] == frozen[i] * sign[i] * 3.0f);
    CHECK(smk_ternary(score, weight, -1, 0.3f, 2.0f) == BAD_INPUT);
    CHECK(smk_ternary(score, weight, count, NAN, 2.0f) == BAD_INPUT);
    free(score), free(frozen), free(weight), free(sign);
}

static void sgd(size_t n) {
    SIMD(smk_sgd);
    float *p[2] = {floats(n), floats(3)}, *m[2] = {floats(n), floats(3)};
    const float *g[2] = {floats(n), floats(3)};
    int64_t counts[2] = {(int64_t)n, 3}, negative[1] = {-1};
    for (int nesterov = 0; nesterov < 2; nesterov++) CHECK(smk_sgd(2, p, g, m, counts, 8, 0.9f, 0.5f, 0.1f, nesterov) == OK);
    CHECK(smk_sgd(1, p, g, m, negative, 8, 1.0f, 0.5f, 0.1f, 0) == BAD_INPUT);
    CHECK(smk_sgd(1, p, g, m, counts, 0, 1.0f, 0.5f, 0.1f, 0) == BAD_INPUT);
    for (int i = 0; i < 2; i++) free(p[i]), free(m[i]), free((void *)g[i]);
}

static void masks(size_t n) {
    SIMD(smk_mask);
    float *values = floats(n), *before = room(n, sizeof *before);
    uint8_t *mask = room(n, 1);
    if (n) memcpy(before, values, n * sizeof *values);
    for (size_t i = 0; i < n; i++) mask[i] = uniform() < 0.3;
    CHECK(smk_mask(values, mask, (int64_t)n) == OK);
    for (size_t i = 0; i < n; i++) CHECK(values[i] == (mask[i] ? before[i] : 0.0f));
    CHECK(smk_mask(values, mask, -1) == BAD_INPUT);
    free(values), free(before), free(mask);
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Scores of n kinds of values; 0: any value. */
static void selection(size_t n, int kinds) {
    SIMD(smk_kth_float);
    SIMD(smk_kth_double);
    SIMD(smk_largest_float);
    SIMD(smk_largest_double);
    SIMD(smk_kth_magnitude_float);
    SIMD(smk_kth_magnitude_double);
    SIMD(smk_largest_magnitude_float);
    SIMD(smk_largest_magnitude_double);
    float *narrow = floats(n);
    double *wide = room(n, sizeof *wide), *sorted = room(n, sizeof *sorted), cut;
    uint8_t *mask = room(n, 1);
    float narrow_cut;
    for (size_t i = 0; i < n; i++) {
        if (kinds) narrow[i] = floorf(narrow[i] * (float)kinds);
        wide[i] = sorted[i] = narrow[i];
    }
    qsort(sorted, n, sizeof *sorted, descending);
    const size_t ranks[] = {1, n / 200 + 1, n / 2 + 1, n};
    for (int r = 0; r < 4; r++) {
        int64_t count = (int64_t)n, rank = (int64_t)ranks[r];
        CHECK(smk_kth_float(narrow, count, rank, &narrow_cut) == OK && narrow_cut == sorted[rank - 1]);
        CHECK(smk_kth_double(wide, count, rank, &cut) == OK && cut == sorted[rank - 1]);
        for (int type = 0; type < 2; type++) {
            CHECK((type ? smk_largest_double(wide, count, rank, mask) : smk_largest_float(narrow, count, rank, mask)) ==
                  OK);
            int64_t kept = 0, tied_out = 0;
            for (size_t i = 0; i < n; i++) {
                kept += mask[i];
                CHECK(mask[i] ? wide[i] >= cut && !(tied_out && wide[i] == cut) : wide[i] <= cut);
                tied_out |= !mask[i] && wide[i] == cut;
            }
            CHECK(kept == rank);
        }
        /* magnitudes: the k-th of them has as many above it, and with its equals, as its rank says */
        CHECK(smk_kth_magnitude_float(narrow, count, rank, &narrow_cut) == OK);
        CHECK(smk_kth_magnitude_double(wide, count, rank, &cut) == OK && cut == narrow_cut);
        CHECK(smk_largest_magnitude_double(wide, count, rank, mask) == OK);
        int64_t above = 0, reached = 0, chosen = 0;
        for (size_t i = 0; i < n; i++) above += fabs(wide[i]) > cut, reached += fabs(wide[i]) >= cut, chosen += mask[i];
        CHECK(above < rank && rank <= reached && chosen == rank);
        uint8_t *other = room(n, 1);
        CHECK(smk_largest_magnitude_float(narrow, count, rank, other) == OK && memcmp(other, mask, n) == 0);
        free(other);
        atomic_store(&fails_in, 0);
        CHECK(smk_largest_magnitude_float(narrow, count, rank, mask) == NO_MEMORY);
        atomic_store(&fails_in, 1); /* only the second one, if there is a second */
        int status = smk_kth_double(wide, count, rank, &cut);
        CHECK(status == OK || status == NO_MEMORY);
        atomic_store(&fails_in, -1);
    }
    CHECK(smk_kth_float(narrow, (int64_t)n, 0, &narrow_cut) == BAD_INPUT);
    CHECK(smk_largest_float(narrow, (int64_t)n, (int64_t)n + 1, mask) == BAD_INPUT);
    narrow[n / 2] = NAN, wide[n / 2] = -NAN;
    CHECK(smk_largest_float(narrow, (int64_t)n, 1, mask) == NOT_A_NUMBER);
    CHECK(smk_largest_magnitude_float(narrow, (int64_t)n, 1, mask) == NOT_A_NUMBER);
    CHECK(smk_kth_double(wide, (int64_t)n, (int64_t)n, &cut) == NOT_A_NUMBER);
    CHECK(smk_kth_magnitude_double(wide, (int64_t)n, (int64_t)n, &cut) == NOT_A_NUMBER);
    free(narrow), free(wide), free(sorted), free(mask);
}

/* A call of the sparse kernel that sanitize.py wrote down. */
typedef struct {
    int64_t words, count, ints, floats, x_size, y_size, images, tile, arena;
    int64_t *operations;
    int32_t *int_values;
    float *float_values, *x, *y;
} Case;

static void *array(FILE *file, int64_t count, size_t size) {
    void *values = room((size_t)count, size);
    CHECK(fread(values, size, (size_t)count, file) == (size_t)count);
    return values;
}

static void run_sparse(const Case *c, int32_t threads) {
    SIMD(smk_sparse_run);
    float *y = room((size_t)(c->images * c->y_size), sizeof *y);
    void *arena;
    size_t bytes = (size_t)c->arena * (size_t)threads * sizeof(float);
    CHECK(posix_memalign(&arena, 64, bytes ? bytes : 64) == 0);
    memset(arena, 0, bytes);
    const int64_t description[] = {(int64_t)(intptr_t)c->operations, c->count, (int64_t)(intptr_t)c->int_values,
                                   (int64_t)(intptr_t)c->float_values, c->x_size, c->y_size, c->tile, c->arena};
    CHECK(smk_sparse_run(description, c->x, y, c->images, arena, threads) == OK);
    for (int64_t i = 0; i < c->images * c->y_size; i++) CHECK(fabsf(y[i] - c->y[i]) <= 1e-3f * (1.0f + fabsf(c->y[i])));
    free(arena), free(y);
}

static void *call_sparse(void *argument) {
    run_sparse(argument, 2);
    return NULL;
}

static void sparse(FILE *file) {
    Case c;
    CHECK(fread(&c, sizeof(int64_t), 9, file) == 9);
    c.operations = array(file, c.words, sizeof *c.operations);
    c.int_values = array(file, c.ints, sizeof *c.int_values);
    c.float_values = array(file, c.floats, sizeof *c.float_values);
    c.x = array(file, c.images * c.x_size, sizeof *c.x);
    c.y = array(file, c.images * c.y_size, sizeof *c.y);
    run_sparse(&c, 1);
    run_sparse(&c, 3);
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) CHECK(pthread_create(&callers[i], NULL, call_sparse, &c) == 0);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    free(c.operations), free(c.int_values), free(c.float_values), free(c.x), free(c.y);
}

static void rice(FILE *file) {
    __typeof__(smk_rice_decode) *decode = function("smk_rice_decode", 0);
    int64_t size[3];
    CHECK(fread(size, sizeof *size, 3, file) == 3);
    int64_t bytes = size[0], members = size[1], universe = size[2];
    uint8_t *code = array(file, bytes, 1);
    int64_t *expected = array(file, members, sizeof *expected), *positions = room((size_t)members, sizeof *positions);
    CHECK(decode(code, bytes, members, universe, positions) == OK);
    CHECK(memcmp(positions, expected, (size_t)members * sizeof *positions) == 0);
    for (int64_t cut = 0; cut < bytes; cut += 1 + bytes / 40) { /* codes that end early, in memory that ends there too */
        uint8_t *begun = room((size_t)cut, 1);
        memcpy(begun, code, (size_t)cut);
        CHECK(decode(begun, cut, members, universe, positions) == BAD_INPUT);
        free(begun);
    }
    for (int i = 0; i < 200; i++) { /* codes with a wrong byte: any status, nothing else */
        int64_t at = (int64_t)(uniform() * (double)bytes);
        uint8_t before = code[at];
        code[at] = (uint8_t)(uniform() * 256.0);
        int status = decode(code, bytes, members, universe, positions);
        CHECK(status == OK || status == BAD_INPUT);
        code[at] = before;
    }
    free(code), free(expected), free(positions);
}

int main(int count, char **arguments) {
    CHECK(count >= 3);
    library = dlopen(arguments[1], RTLD_NOW);
    if (!library) fail(__LINE__, dlerror());
    variant = arguments[2];
    const size_t sizes[] = {0, 1, 7, 16, 1000, 4099};
    for (int i = 0; i < 6; i++) ternary(sizes[i]), sgd(sizes[i]), masks(sizes[i]);
    for (int i = 1; i < 6; i++) selection(sizes[i], 0), selection(sizes[i], 2);
    selection(140000, 0), selection(140000, 3), selection(140000, 40), selection(131072 + 4095, 1);
    for (int i = 3; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        int64_t kind;
        CHECK(file && fread(&kind, sizeof kind, 1, file) == 1);
        kind ? rice(file) : sparse(file);
        fclose(file);
    }
    dlclose(library);
    return 0;
}
