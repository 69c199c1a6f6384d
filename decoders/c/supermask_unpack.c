#include "supermask_unpack.h"

#include <stdlib.h>
#include <string.h>

#define LARGEST ((uint64_t)1 << 48)
#define CHECK(right, message) do { if (!(right)) return (message); } while (0)
#define TRY(call) do { const char *error_ = (call); if (error_) return error_; } while (0)

static const char *const CUT_OFF = "cut off";
static const char *const NO_MEMORY = "out of memory";
static const char *const BAD_SET = "a set of positions is damaged";
static const char *const BAD_JSON = "the header is not that of a packed file, or damaged";

/* ---- bytes ---- */

typedef struct {
    const uint8_t *data;
    uint64_t size, at;
} reader;

static uint64_t little(const uint8_t *data, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)data[i] << (8 * i);
    return value;
}

static void store(uint8_t *data, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) data[i] = (uint8_t)(value >> (8 * i));
}

static const char *take(reader *r, uint64_t size, const uint8_t **found) {
    CHECK(size <= r->size - r->at, CUT_OFF);
    *found = r->data + r->at;
    r->at += size;
    return NULL;
}

static const char *take_byte(reader *r, int *value) {
    const uint8_t *found;
    TRY(take(r, 1, &found));
    *value = *found;
    return NULL;
}

static const char *take_varint(reader *r, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 49; shift += 7) {
        int byte;
        TRY(take_byte(r, &byte));
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return NULL;
    }
    return "a number is too long";
}

uint32_t supermask_crc32(const uint8_t *data, size_t size) {
    uint32_t table[16], crc = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < 16; i++) {
        table[i] = i;
        for (int bit = 0; bit < 4; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
    for (size_t i = 0; i < size; i++) {
        crc = table[(crc ^ data[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ data[i] >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

static int is_utf8(const uint8_t *data, uint64_t size) {
    for (uint64_t i = 0; i < size;) {
        const int first = data[i++], more = first < 0x80 ? 0 : first < 0xC2 ? -1 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        uint32_t code = (uint32_t)(first & (0x7F >> more >> (more > 0)));
        if (more < 0 || first > 0xF4 || size - i < (uint64_t)more) return 0;
        for (int j = 0; j < more; j++, i++) {
            if (data[i] >> 6 != 2) return 0;
            code = code << 6 | (data[i] & 63);
        }
        if ((more == 2 && (code < 0x800 || code >> 11 == 27)) || (more == 3 && (code < 0x10000 || code > 0x10FFFF))) return 0;
    }
    return 1;
}

/* ---- the header's JSON ---- */

typedef struct {
    const uint8_t *at, *end;
} json;

static void skip_space(json *j) {
    while (j->at < j->end && (*j->at == ' ' || *j->at == '\n' || *j->at == '\r' || *j->at == '\t')) j->at++;
}

static int next_is(json *j, char wanted) {
    skip_space(j);
    if (j->at == j->end || *j->at != (uint8_t)wanted) return 0;
    j->at++;
    return 1;
}

static const char *hex4(json *j, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++) {
        CHECK(j->at < j->end, BAD_JSON);
        int c = *j->at++, digit = c >= '0' && c <= '9'   ? c - '0'
                                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                         : -1;
        CHECK(digit >= 0, BAD_JSON);
        *value = *value << 4 | (uint32_t)digit;
    }
    return NULL;
}

/* A text into `out`, which has room for as many bytes as are left of the JSON; NULL only passes over it. */
static const char *read_text(json *j, char *out, size_t *length) {
    size_t n = 0;
    CHECK(next_is(j, '"'), BAD_JSON);
    for (;;) {
        CHECK(j->at < j->end, BAD_JSON);
        uint32_t c = *j->at++;
        if (c == '"') break;
        CHECK(c >= 32, BAD_JSON);
        if (c == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            CHECK(j->at < j->end, BAD_JSON);
            c = *j->at++;
            const char *known = memchr(from, (int)c, sizeof from - 1);
            if (known) {
                c = (uint8_t)to[known - from];
            } else {
                uint32_t second;
                CHECK(c == 'u', BAD_JSON);
                TRY(hex4(j, &c));
                CHECK(c < 0xDC00 || c >= 0xE000, BAD_JSON);
                if (c >= 0xD800 && c < 0xDC00) {
                    CHECK(j->end - j->at >= 2 && j->at[0] == '\\' && j->at[1] == 'u', BAD_JSON);
                    j->at += 2;
                    TRY(hex4(j, &second));
                    CHECK(second >= 0xDC00 && second < 0xE000, BAD_JSON);
                    c = 0x10000 + ((c - 0xD800) << 10) + (second - 0xDC00);
                }
            }
            uint8_t code[4];
            size_t bytes = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
            for (size_t i = bytes; i-- > 1; c >>= 6) code[i] = (uint8_t)(0x80 | (c & 63));
            code[0] = (uint8_t)(bytes == 1 ? c : (0xF00u >> bytes & 0xFF) | c);
            if (out) memcpy(out + n, code, bytes);
            n += bytes;
            continue;
        }
        if (out) out[n] = (char)c;
        n++;
    }
    *length = n;
    return NULL;
}

static int text_is(json *j, const char *wanted) {
    json start = *j;
    size_t length = strlen(wanted);
    skip_space(j);
    if ((size_t)(j->end - j->at) < length + 2 || j->at[0] != '"' || memcmp(j->at + 1, wanted, length) != 0 ||
        j->at[length + 1] != '"') {
        *j = start;
        return 0;
    }
    j->at += length + 2;
    return 1;
}

static const char *skip_value(json *j, int depth) {
    size_t length;
    CHECK(depth < 64, BAD_JSON);
    skip_space(j);
    CHECK(j->at < j->end, BAD_JSON);
    if (*j->at == '"') return read_text(j, NULL, &length);
    if (*j->at == '{' || *j->at == '[') {
        int object = *j->at++ == '{';
        char close = object ? '}' : ']';
        if (next_is(j, close)) return NULL;
        do {
            if (object) {
                TRY(read_text(j, NULL, &length));
                CHECK(next_is(j, ':'), BAD_JSON);
            }
            TRY(skip_value(j, depth + 1));
        } while (next_is(j, ','));
        CHECK(next_is(j, close), BAD_JSON);
        return NULL;
    }
    while (j->at < j->end && !strchr(",]} \n\r\t", *j->at)) j->at++;
    return NULL;
}

static const char *take_number(json *j, uint64_t *value) {
    skip_space(j);
    CHECK(j->at < j->end && *j->at >= '0' && *j->at <= '9', BAD_JSON);
    for (*value = 0; j->at < j->end && *j->at >= '0' && *j->at <= '9'; j->at++) {
        CHECK(*value < LARGEST, BAD_JSON);
        *value = 10 * *value + (*j->at - '0');
    }
    return NULL;
}

static const char *parse_tensor(json *j, uint64_t blob) {
    int seen = 0;
    uint64_t a, b;
    CHECK(next_is(j, '{'), BAD_JSON);
    do {
        if (text_is(j, "dtype")) {
            CHECK(next_is(j, ':') && text_is(j, "U8"), BAD_JSON);
            seen |= 1;
        } else if (text_is(j, "shape")) {
            CHECK(next_is(j, ':') && next_is(j, '['), BAD_JSON);
            TRY(take_number(j, &a));
            CHECK(next_is(j, ']') && a == blob, "cut off, or no packed file");
            seen |= 2;
        } else {
            CHECK(text_is(j, "data_offsets") && next_is(j, ':') && next_is(j, '['), BAD_JSON);
            TRY(take_number(j, &a));
            CHECK(next_is(j, ','), BAD_JSON);
            TRY(take_number(j, &b));
            CHECK(next_is(j, ']') && a == 0 && b == blob, "cut off, or no packed file");
            seen |= 4;
        }
    } while (next_is(j, ','));
    CHECK(next_is(j, '}') && seen == 7, BAD_JSON);
    return NULL;
}

static const char *parse_header(json j, uint64_t blob, supermask_file *file, size_t *length) {
    int tensor = 0;
    CHECK(is_utf8(j.at, (uint64_t)(j.end - j.at)) && next_is(&j, '{'), BAD_JSON);
    do {
        if (text_is(&j, "packed")) {
            CHECK(next_is(&j, ':'), BAD_JSON);
            TRY(parse_tensor(&j, blob));
            tensor = 1;
        } else {
            CHECK(text_is(&j, "__metadata__") && next_is(&j, ':') && next_is(&j, '{'), BAD_JSON);
            do {
                if (!file->description && text_is(&j, "supermask")) {
                    CHECK(next_is(&j, ':'), BAD_JSON);
                    file->description = malloc((size_t)(j.end - j.at) + 1);
                    CHECK(file->description, NO_MEMORY);
                    TRY(read_text(&j, file->description, length));
                    file->description[*length] = 0;
                } else {
                    size_t ignored;
                    TRY(read_text(&j, NULL, &ignored));
                    CHECK(next_is(&j, ':'), BAD_JSON);
                    TRY(skip_value(&j, 0));
                }
            } while (next_is(&j, ','));
            CHECK(next_is(&j, '}'), BAD_JSON);
        }
    } while (next_is(&j, ','));
    CHECK(next_is(&j, '}') && tensor && file->description, BAD_JSON);
    skip_space(&j);
    CHECK(j.at == j.end, BAD_JSON);
    return NULL;
}

/* ---- sets ---- */

/* A set as it is stored, so that a set that stands for much takes no memory. */
typedef struct {
    int inverted;             /* whether `numbers` are no members, and all others are */
    uint64_t count;           /* members */
    uint64_t stored, *numbers; /* increasing */
} set;

/* At most 30 bits; only bytes that hold some of them are read. */
static uint64_t take_bits(const uint8_t *data, uint64_t at, int count) {
    const int before = (int)(at & 7);
    uint64_t value = 0;
    data += at >> 3;
    for (int taken = 0; count && taken < before + count; taken += 8) value |= (uint64_t)*data++ << taken;
    return value >> before & (((uint64_t)1 << count) - 1);
}

static const char *read_code(const uint8_t *code, uint64_t size, uint64_t count, uint64_t n, uint64_t *members) {
    CHECK(size >= 2, BAD_SET);
    const int base = code[0], width = code[1] & 15;
    const int log_block = 4 + (code[1] >> 4);
    const uint64_t block = (uint64_t)1 << log_block, blocks = (count + block - 1) / block;
    const uint64_t low_start = 2 + (blocks * (uint64_t)width + 7) / 8;
    CHECK(base <= 30 && width <= 4 && low_start <= size, BAD_SET);
    uint64_t low_bits = 0;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t k = (uint64_t)base + take_bits(code + 2, i * (uint64_t)width, width);
        CHECK(k <= 30, BAD_SET);
        low_bits += k * (i + 1 < blocks ? block : count - i * block);
    }
    const uint64_t low_bytes = (low_bits + 7) / 8;
    CHECK(low_bytes < size - low_start, BAD_SET);
    const uint8_t *low = code + low_start, *unary = low + low_bytes;
    const uint64_t unary_bits = 8 * (size - low_start - low_bytes);
    uint64_t at = 0, low_at = 0, next = 0;
    for (uint64_t i = 0; i < count; i++) {
        const int k = base + (int)take_bits(code + 2, (i >> log_block) * (uint64_t)width, width);
        uint64_t quotient = 0;
        while (at < unary_bits && !(unary[at >> 3] >> (at & 7) & 1)) at++, quotient++;
        CHECK(at++ < unary_bits && quotient <= n >> k, BAD_SET);
        next += (quotient << k) + take_bits(low, low_at, k);
        low_at += (uint64_t)k;
        CHECK(next < n, BAD_SET);
        members[i] = next++;
    }
    CHECK((at + 7) / 8 * 8 == unary_bits && !(unary[(at - 1) >> 3] >> ((at - 1) & 7) >> 1), BAD_SET);
    return NULL;
}

static const char *take_set(reader *r, uint64_t n, set *s) {
    int mode;
    const uint8_t *data;
    uint64_t size = 0;
    TRY(take_byte(r, &mode));
    CHECK(mode <= 4, BAD_SET);
    s->inverted = mode == 1 || mode == 4;
    if (mode == 2) {
        TRY(take(r, size = (n + 7) / 8, &data));
        for (uint64_t i = 0; i < 8 * size; i++) {
            CHECK(i < n || !(data[i >> 3] >> (i & 7) & 1), BAD_SET);
            s->stored += data[i >> 3] >> (i & 7) & 1;
        }
    } else if (mode > 2) {
        TRY(take_varint(r, &s->stored));
        TRY(take_varint(r, &size));
        CHECK(s->stored >= 1 && s->stored <= n && (s->stored - 1) / 8 < size, BAD_SET);
        TRY(take(r, size, &data));
    }
    s->count = s->inverted ? n - s->stored : s->stored;
    if (mode < 2) return NULL;
    s->numbers = malloc((s->stored + 1) * sizeof *s->numbers);
    CHECK(s->numbers, NO_MEMORY);
    if (mode > 2) return read_code(data, size, s->stored, n, s->numbers);
    for (uint64_t i = 0, j = 0; j < s->stored; i++)
        if (data[i >> 3] >> (i & 7) & 1) s->numbers[j++] = i;
    return NULL;
}

/* The member of a rank, from 0. */
static uint64_t member(const set *s, uint64_t rank) {
    if (!s->inverted) return s->numbers[rank];
    uint64_t low = 0, high = s->stored; /* how many stored numbers have at most so many members before them */
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (s->numbers[middle] - middle <= rank) low = middle + 1;
        else high = middle;
    }
    return rank + low;
}

/* Asked for 0, 1, 2, ... in turn: `at` is how many stored numbers are below, 0 at first. */
static int is_member(const set *s, uint64_t number, uint64_t *at) {
    const int stored = *at < s->stored && s->numbers[*at] == number;
    *at += (uint64_t)stored;
    return stored != s->inverted;
}

/* ---- values ---- */

/* 1 where Philox4x32 gives the sign -1 to a place. */
static uint64_t generated(uint64_t seed, uint64_t stream, uint64_t place, int sides) {
    const uint64_t word = sides ? place : place >> 5, block = word >> 2;
    uint32_t c[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < 10; i++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const uint64_t p = (uint64_t)c[0] * 0xD2511F53u, q = (uint64_t)c[2] * 0xCD9E8D57u;
        const uint32_t next0 = (uint32_t)(q >> 32) ^ c[1] ^ k0, next2 = (uint32_t)(p >> 32) ^ c[3] ^ k1;
        c[0] = next0, c[1] = (uint32_t)q, c[2] = next2, c[3] = (uint32_t)p;
    }
    return ~(c[word & 3] >> (sides ? 31 : place & 31)) & 1;
}

static uint32_t half_to_float(uint32_t half) {
    const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31;
    uint32_t fraction = half & 1023;
    if (exponent == 31) return sign | 0x7F800000u | fraction << 13 | (fraction ? 0x400000u : 0);
    if (exponent) return sign | (exponent + 112) << 23 | fraction << 13;
    if (!fraction) return sign;
    int shift = 0;
    for (; !(fraction & 1024); shift++) fraction <<= 1;
    return sign | (uint32_t)(113 - shift) << 23 | (fraction & 1023) << 13;
}

static uint32_t scaled(int8_t code, uint32_t scale) {
    float factor;
    memcpy(&factor, &scale, 4);
    factor *= code;
    memcpy(&scale, &factor, 4);
    return scale;
}

typedef struct {
    set rows, columns, positions, inverted;
} sets;

static const char *fill_sparse(reader *r, supermask_tensor *t, int item, sets *s) {
    int form;
    const uint8_t *generator = NULL, *scales = NULL, *values = NULL;
    TRY(take_byte(r, &form));
    const int kind = form & 3, swapped = form & 4, bits = form & 8, per_row = form & 16, sides = form & 32;
    CHECK(form < 64 && !(bits && sides) && (!(bits || sides) || kind == 0) && (!per_row || kind == 0 || kind == 3) &&
              (kind != 0 || t->type < 4) && (kind < 2 || t->type == 1),
          "the form of a sparse tensor is unknown");
    if (bits || sides) TRY(take(r, 16, &generator));
    uint64_t depth = 1;
    for (int i = 2; i < t->axes; i++) depth *= t->shape[i];
    const uint64_t height = t->shape[0], width = t->axes > 1 ? t->shape[1] : 1;
    TRY(take_set(r, height, &s->rows));
    TRY(take_set(r, width, &s->columns));
    const uint64_t down = s->rows.count, across = s->columns.count;
    TRY(take_set(r, down * across * depth, &s->positions));
    const uint64_t m = s->positions.count;
    if (kind == 0 || kind == 3) TRY(take(r, (per_row ? down : 1) * (uint64_t)item, &scales));
    if (kind == 0)
        TRY(take_set(r, m, &s->inverted));
    else
        TRY(take(r, m * (uint64_t)(kind == 1 ? item : kind == 2 ? 2 : 1), &values));
    const int moved = swapped || per_row || down < height || across < width;
    const uint64_t scale = scales && !per_row ? little(scales, item) : 0;
    uint64_t at = 0;
    for (uint64_t i = 0; i < m; i++) {
        uint64_t flat = member(&s->positions, i), value = scale;
        if (moved) {
            const uint64_t place = flat / depth, inner = flat % depth;
            const uint64_t row = swapped ? place % down : place / across, column = swapped ? place / down : place % across;
            flat = (member(&s->rows, row) * width + member(&s->columns, column)) * depth + inner;
            if (per_row) value = little(scales + row * (uint64_t)item, item);
        }
        if (kind == 0) {
            uint64_t negative = (uint64_t)is_member(&s->inverted, i, &at);
            if (generator) negative ^= generated(little(generator, 8), little(generator + 8, 8), flat, sides);
            value ^= negative << (8 * item - 1);
        } else if (kind == 1) {
            value = little(values + i * (uint64_t)item, item);
        } else if (kind == 2) {
            value = half_to_float((uint32_t)little(values + 2 * i, 2));
        } else {
            value = scaled((int8_t)values[i], (uint32_t)value);
        }
        store(t->data + flat * (uint64_t)item, value, item);
    }
    return NULL;
}

static const int ITEM[] = {8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1};

static const char *fill(reader *r, supermask_tensor *t, int coding, const supermask_file *file) {
    const int item = ITEM[t->type];
    const uint8_t *found;
    t->data = calloc(t->size ? t->size : 1, 1);
    CHECK(t->data, NO_MEMORY);
    if (coding == 0) {
        TRY(take(r, t->size, &found));
        if (t->size) memcpy(t->data, found, t->size);
    } else if (coding == 2) {
        uint64_t index;
        TRY(take_varint(r, &index));
        const supermask_tensor *other = &file->tensors[index < file->count ? index : 0];
        CHECK(index < file->count && other->type == t->type && other->axes == t->axes &&
                  !memcmp(other->shape, t->shape, sizeof t->shape),
              "a tensor is equal to one that it cannot be equal to");
        memcpy(t->data, other->data, t->size);
    } else {
        CHECK(t->axes && t->size, "a tensor without entries is not dense");
        if (coding == 1) {
            TRY(take(r, (uint64_t)item, &found));
            for (uint64_t at = 0; at < t->size; at += (uint64_t)item) memcpy(t->data + at, found, (size_t)item);
        } else {
            sets s;
            memset(&s, 0, sizeof s);
            const char *error = fill_sparse(r, t, item, &s);
            free(s.rows.numbers), free(s.columns.numbers), free(s.positions.numbers), free(s.inverted.numbers);
            TRY(error);
        }
    }
    CHECK(r->at == r->size, "bytes of a tensor are left over");
    for (uint64_t i = 0; t->type == 12 && i < t->size; i++) CHECK(t->data[i] < 2, "a bool is neither 0 nor 1");
    return NULL;
}

/* One entry of the directory; the tensor's data is not there yet. */
static const char *read_entry(reader *r, supermask_tensor *t, int *coding, uint64_t *payload) {
    uint64_t length, numel = 1, product = 1;
    const uint8_t *name;
    TRY(take_varint(r, &length));
    TRY(take(r, length, &name));
    CHECK(is_utf8(name, length), "a name is not UTF-8");
    t->name = malloc(length + 1);
    CHECK(t->name, NO_MEMORY);
    if (length) memcpy(t->name, name, length);
    t->name[length] = 0;
    TRY(take_byte(r, coding));
    TRY(take_byte(r, &t->type));
    TRY(take_byte(r, &t->axes));
    CHECK(*coding < 4 && t->type < 13 && t->axes <= SUPERMASK_MOST_AXES, "a tensor's coding, type or shape is unknown");
    for (int i = 0; i < t->axes; i++) {
        TRY(take_varint(r, &t->shape[i]));
        const uint64_t axis = t->shape[i] ? t->shape[i] : 1;
        CHECK(product <= LARGEST / axis, "a tensor is too large");
        product *= axis;
        if (!t->shape[i]) numel = 0;
    }
    t->size = numel * product * (uint64_t)ITEM[t->type];
    return take_varint(r, payload);
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static const char *check_names(const supermask_file *file) {
    char **names = malloc((file->count + 1) * sizeof *names);
    CHECK(names, NO_MEMORY);
    for (size_t i = 0; i < file->count; i++) names[i] = file->tensors[i].name;
    qsort(names, file->count, sizeof *names, compare);
    int twice = 0;
    for (size_t i = 1; i < file->count; i++) twice |= !strcmp(names[i - 1], names[i]);
    free(names);
    CHECK(!twice, "a tensor is there twice");
    return NULL;
}

static const char *unpack(const uint8_t *content, size_t size, uint64_t limit, supermask_file *file) {
    size_t length = 0;
    CHECK(size >= 8 && little(content, 8) <= size - 8, "not a packed file, or cut off");
    const uint64_t header = little(content, 8), blob_size = size - 8 - header;
    const uint8_t *blob = content + 8 + header;
    TRY(parse_header((json){content + 8, blob}, blob_size, file, &length));
    CHECK(blob_size >= 16 && !memcmp(blob, "SMKP", 4), "not a packed file");
    CHECK(little(blob + 4, 2) == 1, "of another format: this reads format 1");
    CHECK(little(blob + 6, 2) == 0 && little(blob + 8, 4) == supermask_crc32(blob + 16, blob_size - 16) &&
              little(blob + 12, 4) == supermask_crc32((const uint8_t *)file->description, length),
          "wrong checksum: it is damaged");
    reader body = {blob + 16, blob_size - 16, 0}, directory;
    uint64_t count, payload, total = 0;
    int coding;
    TRY(take_varint(&body, &count));
    CHECK(count <= body.size / 5, CUT_OFF);
    file->tensors = calloc(count ? count : 1, sizeof *file->tensors);
    CHECK(file->tensors, NO_MEMORY);
    directory = body;
    for (uint64_t i = 0; i < count; i++) { /* once without data, to know the sizes */
        supermask_tensor t = {0};
        const char *error = read_entry(&body, &t, &coding, &payload);
        free(t.name);
        TRY(error);
        CHECK(t.size <= limit - total, "it decodes to more than the limit");
        total += t.size;
    }
    for (uint64_t i = 0; i < count; i++) {
        supermask_tensor *t = &file->tensors[i];
        reader part = {NULL, 0, 0};
        const char *error = read_entry(&directory, t, &coding, &payload);
        if (!error) error = take(&body, part.size = payload, &part.data);
        if (!error) error = fill(&part, t, coding, file);
        file->count++;
        TRY(error);
    }
    CHECK(body.at == body.size, "bytes are left over");
    return check_names(file);
}

const char *supermask_unpack(const uint8_t *content, size_t size, uint64_t limit, supermask_file *file) {
    memset(file, 0, sizeof *file);
    const char *error = unpack(content, size, limit, file);
    if (error) supermask_free(file);
    return error;
}

void supermask_free(supermask_file *file) {
    for (size_t i = 0; i < file->count; i++) free(file->tensors[i].name), free(file->tensors[i].data);
    free(file->tensors);
    free(file->description);
    memset(file, 0, sizeof *file);
}

#ifdef SUPERMASK_MAIN
/* Print name, type, shape and CRC-32 of the data of every tensor of a file: cc -DSUPERMASK_MAIN supermask_unpack.c
 * The second argument is the limit in bytes; 1 GiB without it. */
#include <stdio.h>

int main(int argc, char **argv) {
    FILE *stream = argc == 2 || argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!stream) return fprintf(stderr, "usage: %s FILE [LIMIT]\n", argv[0]), 2;
    uint8_t *content = NULL;
    size_t size = 0, got;
    do {
        uint8_t *larger = realloc(content, size + (1 << 20));
        if (!larger) return free(content), fclose(stream), fprintf(stderr, "%s\n", NO_MEMORY), 2;
        content = larger;
        size += got = fread(content + size, 1, 1 << 20, stream);
    } while (got);
    fclose(stream);
    supermask_file file;
    const char *error = supermask_unpack(content, size, argc == 3 ? strtoull(argv[2], NULL, 10) : (uint64_t)1 << 30, &file);
    free(content);
    if (error) return fprintf(stderr, "%s: %s\n", argv[1], error), 1;
    for (size_t i = 0; i < file.count; i++) {
        const supermask_tensor *t = &file.tensors[i];
        printf("%s %s (", t->name, supermask_types[t->type]);
        for (int axis = 0; axis < t->axes; axis++) printf(axis ? ",%llu" : "%llu", (unsigned long long)t->shape[axis]);
        printf(") %08x\n", (unsigned)supermask_crc32(t->data, t->size));
    }
    supermask_free(&file);
    return 0;
}
#endif
