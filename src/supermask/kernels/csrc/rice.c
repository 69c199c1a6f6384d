/* The Rice coder of packed files: positions of the members of a set, from the code that docs/packed-format.md describes.
 * What is read comes from files and may hold anything: every count is checked before it is used. */
#include "kernels.h"

#include <string.h>

enum { LARGEST_K = 30, WIDEST = 4 };

static const int64_t LARGEST_UNIVERSE = (int64_t)1 << 48;

/* 64 bits that start at a byte, little-endian, zeros beyond the end. */
static inline uint64_t load(const uint8_t *bytes, uint64_t size, uint64_t at) {
    uint64_t word = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (at + 8 <= size) {
        memcpy(&word, bytes + at, 8);
        return word;
    }
#endif
    for (uint64_t i = 0; i < 8 && at + i < size; i++) word |= (uint64_t)bytes[at + i] << (8 * i);
    return word;
}

/* `count` bits from a bit position; count + 7 <= 64. */
static inline uint64_t bits(const uint8_t *bytes, uint64_t size, uint64_t at, int count) {
    return load(bytes, size, at >> 3) >> (at & 7) & (((uint64_t)1 << count) - 1);
}

int smk_rice_decode(const uint8_t *code, int64_t size, int64_t count, int64_t universe, int64_t *positions) {
    if (size < 2 || universe > LARGEST_UNIVERSE || count < 1 || count > universe || (count - 1) / 8 >= size)
        return SMK_BAD_INPUT;
    int base = code[0], width = code[1] & 15, shift = 4 + (code[1] >> 4);
    if (width > WIDEST || base > LARGEST_K) return SMK_BAD_INPUT;
    const uint64_t members = (uint64_t)count, all = (uint64_t)size, block = (uint64_t)1 << shift;
    const uint64_t blocks = (members + block - 1) >> shift;

    const uint64_t low_start = 2 + (blocks * (uint64_t)width + 7) / 8;
    if (low_start > all) return SMK_BAD_INPUT;
    uint64_t low_bits = members * (uint64_t)base;
    for (uint64_t i = 0; width && i < blocks; i++) {
        const uint64_t more = bits(code + 2, all - 2, i * (uint64_t)width, width);
        if ((uint64_t)base + more > LARGEST_K) return SMK_BAD_INPUT;
        low_bits += more * (i + 1 < blocks ? block : members - i * block);
    }
    const uint64_t low_bytes = (low_bits + 7) / 8;
    if (low_bytes > all - low_start) return SMK_BAD_INPUT;
    const uint8_t *low = code + low_start, *unary = low + low_bytes;
    const uint64_t rest = all - low_start, unary_bytes = rest - low_bytes, unary_bits = 8 * unary_bytes;

    uint64_t word = load(unary, unary_bytes, 0), word_start = 0, next_bit = 0, low_at = 0, position = 0, done = 0;
    for (uint64_t i = 0; i < blocks; i++) {
        const int k = base + (width ? (int)bits(code + 2, all - 2, i * (uint64_t)width, width) : 0);
        const uint64_t end = i + 1 < blocks ? done + block : members;
        for (; done < end; done++) {
            while (!word) {
                word_start += 64;
                if (word_start >= unary_bits) return SMK_BAD_INPUT;
                word = load(unary, unary_bytes, word_start >> 3);
            }
            const uint64_t bit = word_start + (uint64_t)__builtin_ctzll(word), quotient = bit - next_bit;
            next_bit = bit + 1;
            word &= word - 1;
            if (quotient > (uint64_t)universe >> k) return SMK_BAD_INPUT;
            position += (quotient << k) + bits(low, rest, low_at, k);
            low_at += (uint64_t)k;
            if (position >= (uint64_t)universe) return SMK_BAD_INPUT;
            positions[done] = (int64_t)position++;
        }
    }
    /* the last byte holds the last member, and nothing is after it */
    return word || (next_bit + 7) / 8 != unary_bytes ? SMK_BAD_INPUT : SMK_OK;
}
