/* Sparse programs: a whole network over tiles of at most LANES images, in one call.
 *
 * A value is an array of vectors [channel][row][vector of the row]. A vector holds LANES / g neighbouring pixels of g images,
 * pixel by pixel; rows end in zeros. g is chosen for each value so that a row of it fills vectors: 1 for rows of LANES pixels
 * and more, LANES for linear layers. A tile is LANES / g parts of g images; consecutive operations of one g run part after
 * part, so what lies between them stays in the cache.
 *
 * A tile of one image is arranged otherwise: where a row does not fill a vector, strips of rows of the image take the places
 * of further images, and linear layers work on single entries.
 *
 * A convolution adds, for one output channel and a few rows, whole aligned vectors: first all weights of one horizontal tap,
 * whose sum is then shifted by that tap, then the next tap. No load crosses a cache line, and a weight that is zero is not
 * there. Vertical padding is rows of zeros around a value; horizontal padding is what a shift brings in.
 */
#include "kernels.h"
#include "sparse_vector.h"

#include <stdatomic.h>
#include <string.h>

/* Fields of an operation, in the order of sparse_lowering.py. Offsets and steps are in floats; `part` steps are those from
 * one part of the tile to the next; steps of rows and channels are given with those of a value's own padding. */
typedef struct {
    int64_t kind, images;                          /* images: g of this operation */
    int64_t source, source_part, source_channel, source_row;
    int64_t other, other_part, other_channel, other_row;     /* second value of a sum or product */
    int64_t target, target_part, target_channel, target_row;
    int64_t channels, height, vectors;             /* of the target */
    int64_t above, below, left, right;             /* zero rows and vectors around the target */
    int64_t mask;                                  /* ints: lanes of a row's last vector that are pixels; -1: all */
    int64_t activation, constants;                 /* floats: alpha, beta */
    int64_t scale, bias;                           /* floats, one a channel; -1: none */
    int64_t source_vectors, margin, row_stride;    /* vectors read of a source row, of them for shifts alone; layers: stride */
    int64_t largest;                               /* layers: base-2 logarithm of the rows of a block */
    int64_t taps, shifts, order, counts, places, weights; /* layers: horizontal taps; ints; ints; ints; ints; floats */
    int64_t pooled;                                /* layers: whether a 2x2 max-pool follows */
    int64_t width, windows, factors;               /* pools, moves: pixels of a row; pools: ints, floats (-1: the maximum) */
    int64_t source_images, source_space, target_space, phases; /* moves; layers: source_images */
    int64_t target_image, target_step;             /* moves: from one image to the next, from one pixel to the next */
    int64_t source_rows, strips;                   /* rows of a strip of the source; strips of the target */
} Operation;

enum { MOVE, CONV, LINEAR, POOL, MAP, ADD, MULTIPLY };
enum { NONE, RELU, ELU, LEAKY_RELU, HARDTANH, HARDSWISH, SIGMOID, SILU, TANH, GELU };
enum { ARENA, INPUT, OUTPUT };
enum { MOST_VECTORS = 16 };

typedef struct {
    const Operation *operations;
    int64_t count;
    const int32_t *ints;
    const float *floats;
    const float *x;
    float *y;
    int64_t x_size, y_size; /* of one image */
    int64_t images, tiles;
    float *arena;
    int64_t arena_size; /* of one worker */
    _Atomic int64_t next;
} Program;

/* What one worker is at: a tile, and which part of it. */
typedef struct {
    const Program *program;
    float *arena;
    int64_t first, images; /* of the tile */
    int64_t part;
} Place;


static void clear(float *from, int64_t floats) {
    if (floats > 0) memset(from, 0, (size_t)floats * sizeof *from);
}

/* Zeros around the rows of the target. */
static void clear_around(const Operation *op, float *target) {
    const int64_t row = op->target_row;
    if (!(op->above | op->below | op->left | op->right)) return;
    for (int64_t c = 0; c < op->channels; c++) {
        float *base = target + c * op->target_channel - op->left * LANES;
        clear(base - op->above * row, op->above * row);
        clear(base + op->height * row, op->below * row);
        if (op->left | op->right)
            for (int64_t y = 0; y < op->height; y++) {
                clear(base + y * row, op->left * LANES);
                clear(base + (y + 1) * row - op->right * LANES, op->right * LANES);
            }
    }
}

#define EACH(EXPRESSION)                                   \
    for (int64_t i = 0; i < count; i++) {                  \
        const Vector x = v[i];                             \
        v[i] = EXPRESSION;                                 \
    }                                                      \
    break

static __attribute__((noinline)) void activate(Vector *v, int64_t count, int64_t kind, float alpha, float beta) {
    const Vector zero = all(0.0f), low = all(alpha), high = all(beta);
    switch (kind) {
    case RELU: EACH(larger(x, zero));
    case ELU: EACH(either((Bits)(x > zero), x, low * exp_minus_one(smaller(x, zero))));
    case LEAKY_RELU: EACH(either((Bits)(x > zero), x, low * x));
    case HARDTANH: EACH(smaller(larger(x, low), high));
    case HARDSWISH: EACH(x * smaller(larger(x + all(3.0f), zero), all(6.0f)) * all(1.0f / 6.0f));
    case SIGMOID: EACH(sigmoid(x));
    case SILU: EACH(x * sigmoid(x));
    case TANH: EACH(hyperbolic_tangent(x));
    case GELU: EACH(gelu(x));
    default: break;
    }
}

/* Zeros in the lanes behind the last pixel. */
INLINE Vector masked(const Operation *op, const Program *p, Vector v) {
    return op->mask < 0 ? v : keep(v, *(const AnyBits *)(p->ints + op->mask));
}

/* Activation of one row, and into the target. */
static void finish_row(const Operation *op, const Program *p, Vector *row, float *to) {
    activate(row, op->vectors, op->activation, p->floats[op->constants], p->floats[op->constants + 1]);
    row[op->vectors - 1] = masked(op, p, row[op->vectors - 1]);
    for (int64_t x = 0; x < op->vectors; x++) store(to + x * LANES, row[x]);
}

INLINE float of_channel(const Program *p, int64_t field, int64_t c, float neutral) {
    return field < 0 ? neutral : p->floats[field + c];
}

/* ---- layers ---- */

/* Add the sum of one tap, shifted by `by` lanes, to the total. */
INLINE void add_shifted(Vector *total, const Vector *sum, int by, int rows, int vectors) {
    const Vector zero = all(0.0f);
    const Bits from = lane_numbers() + (by > 0 ? by : LANES + by);
    if (by > 0) {
        for (int i = 0; i < rows * vectors; i++)
            total[i] += pick(sum[i], i % vectors < vectors - 1 ? sum[i + 1] : zero, from);
    } else {
        for (int i = 0; i < rows * vectors; i++) total[i] += pick(i % vectors > 0 ? sum[i - 1] : zero, sum[i], from);
    }
}

/* The same by LANES and more. */
static __attribute__((noinline)) void add_far(Vector *total, const Vector *sum, int by, int rows, int vectors) {
    const Vector zero = all(0.0f);
    const int whole = by >= 0 ? by / LANES : -((LANES - 1 - by) / LANES);
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < vectors; x++) {
            const int at = x + whole;
            const Vector low = at >= 0 && at < vectors ? sum[y * vectors + at] : zero;
            const Vector high = at >= -1 && at < vectors - 1 ? sum[y * vectors + at + 1] : zero;
            total[y * vectors + x] += pick(low, high, lane_numbers() + (by - whole * LANES));
        }
}

/* Add weight * vectors to the sums. */
INLINE void add_weight(Vector *sum, const float *from, int64_t row, Vector weight, int rows, int vectors) {
#pragma GCC unroll 8
    for (int y = 0; y < rows; y++)
#pragma GCC unroll 16
        for (int x = 0; x < vectors; x++)
            sum[y * vectors + x] = multiply_add(weight, load(from + y * row + x * LANES), sum[y * vectors + x]);
}

/* The pool along the rows, activation and masks of one output channel for some rows, and into the target. */
static __attribute__((noinline)) void finish_block(const Operation *op, const Program *p, Vector *sum, int64_t rows,
                                                   int64_t vectors, int64_t kept, int ends_row, float *to) {
    if (op->pooled) {
        const int64_t half = (vectors + 1) / 2;
        const int32_t g = (int32_t)op->images;
        const Bits even = lane_numbers() + lane_numbers() / g * g; /* pixels 0, 2, 4 ... */
        for (int64_t y = 0; y < rows; y++)
            for (int64_t x = 0; x < half; x++) {
                const Vector low = sum[y * vectors + 2 * x];
                const Vector high = 2 * x + 1 < vectors ? sum[y * vectors + 2 * x + 1] : low;
                sum[y * half + x] = larger(pick(low, high, even), pick(low, high, even + g));
            }
        vectors = half;
    }
    activate(sum, rows * vectors, op->activation, p->floats[op->constants], p->floats[op->constants + 1]);
    for (int64_t y = 0; y < rows; y++) {
        Vector *row = sum + y * vectors + op->margin;
        if (ends_row) row[kept - 1] = masked(op, p, row[kept - 1]);
        for (int64_t x = 0; x < kept; x++) store(to + y * op->target_row + x * LANES, row[x]);
    }
}

typedef void Block(const Operation *op, const Program *p, const float *source, float *target, int64_t kept, int ends_row);

/* All output channels of a convolution for ROWS rows of VECTORS vectors: a function for each, so that the sums stay in
 * registers. Tap 0 is the one without a shift. */
#define BLOCK(ROWS, VECTORS)                                                                                             \
    static void block_##ROWS##_##VECTORS(const Operation *op, const Program *p, const float *source, float *target,      \
                                         int64_t kept, int ends_row) {                                                   \
        const int32_t *shifts = p->ints + op->shifts, *counts = p->ints + op->counts, *places = p->ints + op->places;    \
        const int32_t *order = p->ints + op->order;                                                                      \
        const float *weights = p->floats + op->weights;                                                                  \
        const float alpha = p->floats[op->constants], beta = p->floats[op->constants + 1];                               \
        const int64_t step = op->source_row * op->row_stride, channels = op->channels, taps = op->taps;                  \
        const int whole = !op->pooled && op->mask < 0 && kept == VECTORS && op->target_row == VECTORS * LANES;           \
        for (int64_t c = 0; c < channels; c++) {                                                                         \
            Vector total[ROWS * VECTORS];                                                                                \
            for (int i = 0; i < ROWS * VECTORS; i++) total[i] = all(0.0f);                                               \
            for (int64_t tap = 0; tap < taps; tap++) {                                                                   \
                const int64_t count = *counts++;                                                                         \
                if (count == 0) continue;                                                                                \
                Vector sum[ROWS * VECTORS];                                                                              \
                for (int i = 0; i < ROWS * VECTORS; i++) sum[i] = all(0.0f);                                             \
                for (const int32_t *end = places + count; places < end; places++, weights++)                             \
                    add_weight(sum, source + *places, step, all(*weights), ROWS, VECTORS);                               \
                const int by = shifts[tap];                                                                              \
                if (tap == 0) {                                                                                          \
                    for (int i = 0; i < ROWS * VECTORS; i++) total[i] = sum[i];                                          \
                } else if (by > -LANES && by < LANES) {                                                                  \
                    add_shifted(total, sum, by, ROWS, VECTORS);                                                          \
                } else {                                                                                                 \
                    Vector far[2][ROWS * VECTORS];                                                                       \
                    for (int i = 0; i < ROWS * VECTORS; i++) far[0][i] = total[i], far[1][i] = sum[i];                   \
                    add_far(far[0], far[1], by, ROWS, VECTORS);                                                          \
                    for (int i = 0; i < ROWS * VECTORS; i++) total[i] = far[0][i];                                       \
                }                                                                                                        \
            }                                                                                                            \
            const Vector scale = all(of_channel(p, op->scale, c, 1.0f)), bias = all(of_channel(p, op->bias, c, 0.0f));   \
            float *to = target + order[c] * op->target_channel;                                                          \
            if (whole) { /* the rows of the target lie one behind the other */                                           \
                for (int i = 0; i < ROWS * VECTORS; i++) store(to + i * LANES, multiply_add(total[i], scale, bias));     \
                activate((Vector *)to, ROWS * VECTORS, op->activation, alpha, beta);                                     \
            } else {                                                                                                     \
                Vector done[ROWS * VECTORS];                                                                             \
                int rows = ROWS;                                                                                         \
                for (int i = 0; i < ROWS * VECTORS; i++) total[i] = multiply_add(total[i], scale, bias);                 \
                if (op->pooled) {                                                                                        \
                    rows = ROWS / 2;                                                                                     \
                    for (int i = 0; i < ROWS / 2 * VECTORS; i++)                                                         \
                        done[i] = larger(total[i + i / VECTORS * VECTORS], total[i + i / VECTORS * VECTORS + VECTORS]);  \
                } else {                                                                                                 \
                    for (int i = 0; i < ROWS * VECTORS; i++) done[i] = total[i];                                         \
                }                                                                                                        \
                finish_block(op, p, done, rows, VECTORS, kept, ends_row, to);                                            \
            }                                                                                                            \
        }                                                                                                                \
    }

BLOCK(1, 1) BLOCK(2, 1) BLOCK(4, 1) BLOCK(8, 1)
BLOCK(1, 2) BLOCK(2, 2) BLOCK(4, 2)
BLOCK(1, 3) BLOCK(2, 3) BLOCK(1, 4) BLOCK(2, 4)
BLOCK(1, 5) BLOCK(2, 5) BLOCK(1, 6) BLOCK(2, 6) BLOCK(1, 7) BLOCK(2, 7) BLOCK(1, 8) BLOCK(2, 8)
BLOCK(1, 9) BLOCK(1, 10) BLOCK(1, 11) BLOCK(1, 12) BLOCK(1, 13) BLOCK(1, 14) BLOCK(1, 15) BLOCK(1, 16)

/* [base-2 logarithm of rows][vectors - 1] */
static Block *const blocks[4][MOST_VECTORS] = {
    {block_1_1, block_1_2, block_1_3, block_1_4, block_1_5, block_1_6, block_1_7, block_1_8, block_1_9, block_1_10,
     block_1_11, block_1_12, block_1_13, block_1_14, block_1_15, block_1_16},
    {block_2_1, block_2_2, block_2_3, block_2_4, block_2_5, block_2_6, block_2_7, block_2_8},
    {block_4_1, block_4_2},
    {block_8_1},
};

static void conv(const Operation *op, const Program *p, const float *source, float *target) {
    const int64_t vectors = op->source_vectors, step = vectors - 2 * op->margin;
    int64_t height = op->height << op->pooled;
    for (int64_t y = 0; y < height;) {
        int size = op->largest;
        while (!blocks[size][vectors - 1] || y + (1 << size) > height) size--;
        for (int64_t x = 0; x < op->vectors; x += step) {
            const int64_t kept = op->vectors - x < step ? op->vectors - x : step;
            blocks[size][vectors - 1](op, p, source + y * op->row_stride * op->source_row + (x - op->margin) * LANES,
                                      target + (y >> op->pooled) * op->target_row + x * LANES, kept,
                                      x + step >= op->vectors);
        }
        y += 1 << size;
    }
}

/* A linear layer over values of one pixel a vector, for several parts of a tile at once: each output is a sum of vectors
 * from anywhere, kept as four sums, because an addition takes longer than the time between two of them. */
#define LINEAR_PARTS(PARTS)                                                                                              \
    static void linear_##PARTS(const Operation *op, const Program *p, const float *source, float *target) {              \
        const int32_t *counts = p->ints + op->counts, *places = p->ints + op->places, *order = p->ints + op->order;      \
        const float *weights = p->floats + op->weights;                                                                  \
        for (int64_t c = 0; c < op->channels; c++) {                                                                     \
            const int64_t count = counts[c];                                                                             \
            Vector sum[PARTS][4];                                                                                        \
            for (int k = 0; k < 4 * PARTS; k++) sum[k / 4][k % 4] = all(0.0f);                                           \
            int64_t i = 0;                                                                                               \
            for (; i + 4 <= count; i += 4)                                                                               \
                for (int j = 0; j < 4; j++)                                                                              \
                    add_place(PARTS, sum, j, source + places[i + j], op->source_part, all(weights[i + j]));              \
            if (i < count) add_place(PARTS, sum, 0, source + places[i], op->source_part, all(weights[i]));               \
            if (i + 1 < count) add_place(PARTS, sum, 1, source + places[i + 1], op->source_part, all(weights[i + 1]));   \
            if (i + 2 < count) add_place(PARTS, sum, 2, source + places[i + 2], op->source_part, all(weights[i + 2]));   \
            const Vector scale = all(of_channel(p, op->scale, c, 1.0f)), bias = all(of_channel(p, op->bias, c, 0.0f));   \
            for (int k = 0; k < PARTS; k++) {                                                                            \
                const Vector done = (sum[k][0] + sum[k][1]) + (sum[k][2] + sum[k][3]);                                   \
                store(target + k * op->target_part + order[c] * LANES, multiply_add(done, scale, bias));                 \
            }                                                                                                            \
            places += count;                                                                                             \
            weights += count;                                                                                            \
        }                                                                                                                \
        const float alpha = p->floats[op->constants], beta = p->floats[op->constants + 1];                               \
        for (int k = 0; k < PARTS; k++)                                                                                  \
            activate((Vector *)(target + k * op->target_part), op->channels, op->activation, alpha, beta);               \
    }

INLINE void add_place(int parts, Vector (*sum)[4], int j, const float *from, int64_t part, Vector weight) {
#pragma GCC unroll 4
    for (int k = 0; k < parts; k++) sum[k][j] = multiply_add(weight, load(from + k * part), sum[k][j]);
}

LINEAR_PARTS(1)
LINEAR_PARTS(2)
#if LANES == 16 /* enough registers for sixteen sums */
LINEAR_PARTS(4)
#endif

/* The same for one image, entry by entry, in the same order. */
static void linear_single(const Operation *op, const Program *p, const float *source, float *target) {
    for (int64_t y = 0; y < op->height; y++) {
        const int32_t *counts = p->ints + op->counts, *places = p->ints + op->places, *order = p->ints + op->order;
        const float *weights = p->floats + op->weights, *from = source + y * op->source_row;
        for (int64_t c = 0; c < op->channels; c++) {
            const int64_t count = counts[c];
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            int64_t i = 0;
            for (; i + 4 <= count; i += 4) {
                sum[0] = multiply_add_one(weights[i], from[places[i]], sum[0]);
                sum[1] = multiply_add_one(weights[i + 1], from[places[i + 1]], sum[1]);
                sum[2] = multiply_add_one(weights[i + 2], from[places[i + 2]], sum[2]);
                sum[3] = multiply_add_one(weights[i + 3], from[places[i + 3]], sum[3]);
            }
            for (int64_t j = 0; i + j < count; j++)
                sum[j] = multiply_add_one(weights[i + j], from[places[i + j]], sum[j]);
            const float scale = of_channel(p, op->scale, c, 1.0f), bias = of_channel(p, op->bias, c, 0.0f);
            target[y * op->target_row + order[c]] = multiply_add_one((sum[0] + sum[1]) + (sum[2] + sum[3]), scale, bias);
            places += count;
            weights += count;
        }
    }
    const int64_t vectors = (op->height * op->channels + LANES - 1) / LANES;
    activate((Vector *)target, vectors, op->activation, p->floats[op->constants], p->floats[op->constants + 1]);
}

static void linear(const Operation *op, const Place *place) {
    const Program *p = place->program;
    const int64_t parts = (place->images + LANES - 1) / LANES;
    if (op->source_images == 1) {
        linear_single(op, p, place->arena + op->source, place->arena + op->target);
        return;
    }
    for (int64_t y = 0; y < op->height; y++)
        for (int64_t part = 0; part < parts;) {
            const float *source = place->arena + op->source + part * op->source_part + y * op->source_row;
            float *target = place->arena + op->target + part * op->target_part + y * op->target_row;
            const int64_t left = parts - part;
#if LANES == 16
            if (left >= 4) {
                linear_4(op, p, source, target);
                part += 4;
                continue;
            }
#endif
            (left >= 2 ? linear_2 : linear_1)(op, p, source, target);
            part += left >= 2 ? 2 : 1;
        }
}

/* ---- everything else ---- */

/* Windows of any kind, max or mean: down the columns in vectors, then along the row by pixels. */
static void pool(const Operation *op, const Program *p, const float *source, float *target, float *scratch) {
    const int64_t g = op->images, floats = op->source_vectors * LANES;
    const int32_t *rows = p->ints + op->windows, *columns = rows + 2 * op->height;
    const int mean = op->factors >= 0;
    float *line = scratch, *out = scratch + floats;
    for (int64_t c = 0; c < op->channels; c++)
        for (int64_t y = 0; y < op->height; y++) {
            const float *from = source + c * op->source_channel + rows[2 * y] * op->source_row;
            memcpy(line, from, (size_t)floats * sizeof *line);
            for (int64_t r = rows[2 * y] + 1; r < rows[2 * y + 1]; r++) {
                from += op->source_row;
                for (int64_t i = 0; i < floats; i += LANES) {
                    const Vector a = load(line + i), b = load(from + i);
                    store(line + i, mean ? (Vector)(a + b) : larger(a, b));
                }
            }
            clear(out + op->vectors * LANES - LANES, LANES);
            for (int64_t x = 0; x < op->width; x++) {
                const float factor = mean ? p->floats[op->factors + y * op->width + x] : 1.0f;
                for (int64_t i = 0; i < g; i++) {
                    const float *pixel = line + columns[2 * x] * g + i;
                    float v = *pixel;
                    for (int64_t k = columns[2 * x] + 1; k < columns[2 * x + 1]; k++) {
                        pixel += g;
                        v = mean ? v + *pixel : v > *pixel ? v : *pixel;
                    }
                    out[x * g + i] = v * factor;
                }
            }
            finish_row(op, p, (Vector *)out, target + c * op->target_channel + y * op->target_row);
        }
}

/* Entry by entry: scale, bias and activation of one value, or the sum or product of two. */
static void map(const Operation *op, const Program *p, const float *source, const float *other, float *target,
                float *scratch) {
    Vector *row = (Vector *)scratch;
    for (int64_t c = 0; c < op->channels; c++) {
        const Vector scale = all(of_channel(p, op->scale, c, 1.0f)), bias = all(of_channel(p, op->bias, c, 0.0f));
        for (int64_t y = 0; y < op->height; y++) {
            const float *a = source + c * op->source_channel + y * op->source_row;
            const float *b = other + c * op->other_channel + y * op->other_row;
            for (int64_t x = 0; x < op->vectors; x++) {
                const Vector v = load(a + x * LANES);
                if (op->kind == MAP) row[x] = op->scale < 0 ? v : multiply_add(v, scale, bias);
                if (op->kind == ADD) row[x] = v + load(b + x * LANES);
                if (op->kind == MULTIPLY) row[x] = v * load(b + x * LANES);
            }
            finish_row(op, p, row, target + c * op->target_channel + y * op->target_row);
        }
    }
}

/* One value in another arrangement: other images a vector, columns dealt to `phases` channels, rows dealt to strips; also
 * from and to the caller's arrays. */
static void move(const Operation *op, const Place *place, float *target) {
    const Program *p = place->program;
    const int64_t g = op->images, from_g = op->source_images, width = op->width;
    const int64_t step = op->target_step, rows = op->height; /* of a strip */
    const int64_t channels = op->channels / op->phases, first = place->part * g;
    const int64_t count = place->images - first < g ? place->images - first : g;
    const float *base = (op->source_space == INPUT ? p->x + place->first * p->x_size : place->arena) + op->source;
    int64_t start[LANES];
    for (int64_t i = 0; i < count; i++) {
        const int64_t image = first + i;
        start[i] = image / from_g * op->source_part + image % from_g;
    }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < rows * op->strips; y++) {
            const int64_t strip = y / op->source_rows, target_strip = y / rows;
            const float *from = base + c * op->source_channel + (y - strip * op->source_rows) * op->source_row + strip;
            float *to = target + c * op->phases * op->target_channel + (y - target_strip * rows) * op->target_row + target_strip;
            int64_t done = 0;
            if (count == LANES && from_g == 1 && op->phases == 1 && step == g)
                for (; done + LANES <= width; done += LANES) {
                    Vector block[LANES];
                    for (int i = 0; i < LANES; i++) block[i] = load_anywhere(from + start[i] + done);
                    transpose(block);
                    for (int i = 0; i < LANES; i++) store(to + (done + i) * LANES, block[i]);
                }
            for (int64_t phase = 0; phase < op->phases; phase++) {
                float *row = to + phase * op->target_channel;
                if ((op->mask >= 0 && target_strip == 0) || op->phases > 1)
                    clear(row + (op->vectors - 1) * LANES, LANES);
                for (int64_t i = 0; i < count; i++) {
                    if (step == 1 && from_g == 1 && op->phases == 1) {
                        memcpy(row + i * op->target_image, from + start[i], (size_t)width * sizeof *row);
                        continue;
                    }
                    const float *pixel = from + start[i] + (done + phase) * from_g;
                    float *at = row + done * step + i * op->target_image;
                    for (int64_t x = done + phase; x < width; x += op->phases) {
                        *at = *pixel;
                        pixel += op->phases * from_g;
                        at += step;
                    }
                }
            }
        }
}

/* The rows above and below each strip are those of its neighbours. */
static void exchange(const Operation *op, float *target) {
    const int32_t g = (int32_t)op->images, last = (int32_t)op->strips - 1;
    const Bits lane = lane_numbers(), strip = lane % g;
    const Bits before = (lane + LANES - 1) % LANES, after = (lane + 1) % LANES;
    const Bits not_first = (Bits)(strip > 0) & (Bits)(strip <= last), not_last = (Bits)(strip < last);
    const int64_t row = op->target_row;
    for (int64_t c = 0; c < op->channels; c++) {
        float *base = target + c * op->target_channel;
        for (int64_t k = 0; k < op->above; k++) {
            const Vector v = load(base + (op->height - 1 - k) * row);
            store(base - (k + 1) * row, keep(pick(v, v, before), not_first));
        }
        for (int64_t k = 0; k < op->below; k++) {
            const Vector v = load(base + k * row);
            store(base + (op->height + k) * row, keep(pick(v, v, after), not_last));
        }
    }
}

/* ---- the program ---- */

static void operate(const Operation *op, const Place *place) {
    const Program *p = place->program;
    const int64_t part = place->part;
    float *scratch = place->arena; /* its start; values follow */
    const float *source = place->arena + op->source + part * op->source_part;
    const float *other = place->arena + op->other + part * op->other_part;
    float *target = (op->target_space == OUTPUT ? p->y + place->first * p->y_size : place->arena) + op->target +
                    part * op->target_part;
    clear_around(op, target);
    switch (op->kind) {
    case MOVE: move(op, place, target); break;
    case CONV: conv(op, p, source, target); break;
    case LINEAR: linear(op, place); break;
    case POOL: pool(op, p, source, target, scratch); break;
    default: map(op, p, source, other, target, scratch);
    }
    if (op->strips > 1) exchange(op, target);
}

static void run_tile(const Program *p, float *arena, int64_t tile) {
    const int64_t first = p->images * tile / p->tiles, end = p->images * (tile + 1) / p->tiles;
    Place place = {p, arena, first, end - first, 0};
    for (int64_t i = 0, next; i < p->count; i = next) {
        const int64_t g = p->operations[i].images, parts = (place.images + g - 1) / g;
        for (next = i; next < p->count && p->operations[next].images == g; next++) continue;
        if (g < LANES) {
            for (place.part = 0; place.part < parts; place.part++)
                for (int64_t k = i; k < next; k++) operate(&p->operations[k], &place);
        } else {
            for (int64_t k = i; k < next; k++) {
                const int64_t calls = p->operations[k].kind == LINEAR ? 1 : parts; /* it does all parts at once */
                for (place.part = 0; place.part < calls; place.part++) operate(&p->operations[k], &place);
            }
        }
    }
}

static void work(void *context, size_t worker) {
    Program *p = context;
    float *arena = p->arena + (int64_t)worker * p->arena_size;
    for (;;) {
        const int64_t tile = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (tile >= p->tiles) return;
        run_tile(p, arena, tile);
    }
}

int SMK_SIMD(smk_sparse_lanes)(void) { return LANES; }

int SMK_SIMD(smk_sparse_run)(const int64_t *description, const float *x, float *y, int64_t images, float *arena,
                             int32_t threads) {
    const int64_t count = description[1], tile = description[6];
    if (count < 1 || tile < 1 || images < 1 || threads < 1 || (uintptr_t)arena % (4 * LANES)) return SMK_BAD_INPUT;
    int64_t tiles = (images + tile - 1) / tile;
    tiles = (tiles + threads - 1) / threads * threads; /* as many for each thread */
    if (tiles > images) tiles = images;
    Program program = {.operations = (const Operation *)(uintptr_t)description[0], .count = count,
                       .ints = (const int32_t *)(uintptr_t)description[2],
                       .floats = (const float *)(uintptr_t)description[3], .x = x, .y = y, .x_size = description[4],
                       .y_size = description[5], .images = images, .tiles = tiles, .arena = arena,
                       .arena_size = description[7]};
    smk_parallel(threads, (size_t)threads, work, &program);
    return SMK_OK;
}
