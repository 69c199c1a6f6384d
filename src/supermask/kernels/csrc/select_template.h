/* The selection of select_simd.c for one type. Defined before: FLOAT, KEY (unsigned, as wide), SIGNED_KEY, NAMED(name). */

enum { NAMED(BITS) = 8 * sizeof(KEY) };

/* What a value is ranked by: itself, or its magnitude, for which `bits` leaves out the sign. */
static inline FLOAT NAMED(ranked)(FLOAT value, KEY bits) {
    KEY all;
    memcpy(&all, &value, sizeof all);
    all &= bits;
    memcpy(&value, &all, sizeof value);
    return value;
}

/* Ascending unsigned integers for ascending numbers. */
static inline KEY NAMED(key_of)(FLOAT value) {
    KEY bits;
    value += 0; /* -0 becomes 0 */
    memcpy(&bits, &value, sizeof bits);
    return bits ^ ((KEY)((SIGNED_KEY)bits >> (NAMED(BITS) - 1)) | (KEY)1 << (NAMED(BITS) - 1));
}

static inline FLOAT NAMED(number_of)(KEY key) {
    FLOAT value;
    KEY top = (KEY)1 << (NAMED(BITS) - 1);
    key = key & top ? key ^ top : ~key;
    memcpy(&value, &key, sizeof value);
    return value;
}

static int NAMED(has_nan)(const FLOAT *values, size_t count) {
    int found = 0;
    for (size_t i = 0; i < count; i++) found |= values[i] != values[i];
    return found;
}

/* Adds up in `bins` how often each value of BIN_BITS bits from `shift` on occurs. */
static void NAMED(count_values)(const FLOAT *values, size_t count, KEY bits, int shift, size_t *bins) {
    uint32_t lanes[LANES][BINS];
    size_t i = 0;
    while (i < count) {
        size_t end = count - i < MOST_COUNTED ? count : i + MOST_COUNTED;
        memset(lanes, 0, sizeof lanes);
        for (; i + LANES <= end; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane][NAMED(key_of)(NAMED(ranked)(values[i + lane], bits)) >> shift]++;
        for (; i < end; i++) lanes[0][NAMED(key_of)(NAMED(ranked)(values[i], bits)) >> shift]++;
        for (int bin = 0; bin < BINS; bin++)
            for (int lane = 0; lane < LANES; lane++) bins[bin] += lanes[lane][bin];
    }
}

/* The bin of the rank-th largest; rank becomes the rank within it. */
static size_t NAMED(find_bin)(const size_t *bins, size_t *rank) {
    size_t bin = BINS - 1;
    while (bins[bin] < *rank) *rank -= bins[bin--];
    return bin;
}

/* The rank-th largest of some keys, of which all bits from `shift` on are equal; the keys are changed. */
static KEY NAMED(among)(KEY *keys, size_t count, int shift, size_t rank) {
    while (shift > 0) {
        size_t bins[BINS] = {0}, kept = 0;
        int width = shift < BIN_BITS ? shift : BIN_BITS;
        KEY mask = ((KEY)1 << width) - 1;
        shift -= width;
        for (size_t i = 0; i < count; i++) bins[keys[i] >> shift & mask]++;
        KEY bin = NAMED(find_bin)(bins, &rank);
        for (size_t i = 0; i < count; i++) {
            KEY key = keys[i];
            keys[kept] = key;
            kept += (key >> shift & mask) == bin;
        }
        count = kept;
    }
    return keys[0];
}

/* The rank-th largest value, 1 <= rank <= count. */
static int NAMED(kth_by_bins)(const FLOAT *values, size_t count, KEY bits, size_t rank, FLOAT *result) {
    int shift = NAMED(BITS) - BIN_BITS;
    size_t bins[BINS] = {0};
    NAMED(count_values)(values, count, bits, shift, bins);
    /* NaN has the exponent of infinity: only if that occurs can there be one */
    size_t extreme = bins[NAMED(key_of)((FLOAT)INFINITY) >> shift] + bins[NAMED(key_of)(-(FLOAT)INFINITY) >> shift];
    for (size_t bin = (NAMED(key_of)((FLOAT)INFINITY) >> shift) + 1; bin < BINS; bin++) extreme += bins[bin];
    for (size_t bin = 0; bin < NAMED(key_of)(-(FLOAT)INFINITY) >> shift; bin++) extreme += bins[bin];
    if (extreme && NAMED(has_nan)(values, count)) return SMK_NAN;
    KEY bin = NAMED(find_bin)(bins, &rank);
    size_t found = 0, size = bins[bin];
    KEY *keys = malloc((size + 1) * sizeof *keys); /* one more: every key is written, few are kept */
    if (!keys) return SMK_NO_MEMORY;
    for (size_t i = 0; i < count && found < size; i++) {
        KEY key = NAMED(key_of)(NAMED(ranked)(values[i], bits));
        keys[found] = key;
        found += key >> shift == bin;
    }
    *result = NAMED(number_of)(NAMED(among)(keys, size, shift, rank));
    free(keys);
    return SMK_OK;
}

/* What was seen of many values, between which bounds the rank-th largest probably lies. */
typedef struct {
    FLOAT low, high;
    size_t above, reached; /* how many exceed `high`, and how many are not below it */
    size_t used;           /* how many lie between the bounds, without them */
    size_t marked, ties;   /* how many the mask has, and before which place it has those equal to `high` */
    int nan;
    FLOAT *found;     /* those between */
    uint32_t *places; /* and where they are */
} NAMED(Seen);

/* Takes in one block. mask = 1 for what exceeds the upper bound, and for what is equal to it, if fewer than `rank` values
 * before are not below it: later ones are certainly too many. No mask if NULL. */
static void NAMED(see)(NAMED(Seen) *seen, const FLOAT *restrict values, size_t start, size_t count, KEY bits, size_t rank,
                       uint8_t *restrict mask) {
    const FLOAT low = seen->low, high = seen->high, *from = values + start;
    const int strict = seen->reached >= rank;
    FLOAT *restrict found = seen->found;
    uint32_t *restrict places = seen->places;
    size_t used = seen->used, first = 0;
    uint32_t above = 0, reached = 0, bad = 0;
#ifdef SEE_VECTORS
    first = SEE_VECTORS(from, start, count, low, high, bits, strict, found, places, &used, &above, &reached, &bad,
                        mask ? mask + start : NULL);
#endif
    for (size_t i = first; i < count; i++) {
        const FLOAT value = NAMED(ranked)(from[i], bits);
        above += value > high;
        reached += value >= high;
        bad |= value != value;
    }
    if (mask && strict)
        for (size_t i = first; i < count; i++) mask[start + i] = NAMED(ranked)(from[i], bits) > high;
    if (mask && !strict)
        for (size_t i = first; i < count; i++) mask[start + i] = NAMED(ranked)(from[i], bits) >= high;
    for (size_t i = first, end; i < count; i = end) {
        uint32_t within = 0;
        end = count - i < FEW ? count : i + FEW;
        for (size_t k = i; k < end; k++) {
            const FLOAT value = NAMED(ranked)(from[k], bits);
            within += (value > low) & (value < high);
        }
        for (size_t k = i; k < end && within > 0; k++) {
            const FLOAT value = NAMED(ranked)(from[k], bits);
            found[used] = value;
            places[used] = (uint32_t)(start + k);
            used += (value > low) & (value < high);
        }
    }
    seen->above += above;
    seen->reached += reached;
    seen->marked += strict ? above : reached;
    if (!strict) seen->ties = start + count;
    seen->nan |= bad != 0;
    seen->used = used;
}

/* mask = 1 for the first `room` of those equal to the cut, as far as there are; how many there are not. Without a mask it
 * counts. */
static size_t NAMED(add_ties)(const FLOAT *restrict values, size_t count, KEY bits, FLOAT cut, size_t room,
                              uint8_t *restrict mask) {
    for (size_t begin = 0; begin < count && room > 0; begin += BLOCK) {
        size_t end = count - begin < BLOCK ? count : begin + BLOCK;
        uint32_t ties = 0;
        for (size_t i = begin; i < end; i++) ties += NAMED(ranked)(values[i], bits) == cut;
        if (!mask) {
            room -= ties < room ? ties : room;
        } else if (ties <= room) {
            for (size_t i = begin; i < end; i++) mask[i] |= NAMED(ranked)(values[i], bits) == cut;
            room -= ties;
        } else {
            for (size_t i = begin; room > 0; i++) {
                if (NAMED(ranked)(values[i], bits) == cut) {
                    mask[i] = 1;
                    room--;
                }
            }
        }
    }
    return room;
}

/* mask = 0 for the last `surplus` of those equal to the cut. */
static void NAMED(remove_ties)(const FLOAT *restrict values, size_t count, KEY bits, FLOAT cut, size_t surplus,
                               uint8_t *restrict mask) {
    for (size_t end = count; surplus > 0;) {
        size_t begin = end > BLOCK ? end - BLOCK : 0;
        uint32_t ties = 0;
        for (size_t i = begin; i < end; i++) ties += NAMED(ranked)(values[i], bits) == cut;
        if (ties <= surplus) {
            for (size_t i = begin; i < end; i++) mask[i] = NAMED(ranked)(values[i], bits) > cut;
            surplus -= ties;
        } else {
            for (size_t i = end; surplus > 0; i--) {
                if (NAMED(ranked)(values[i - 1], bits) == cut) {
                    mask[i - 1] = 0;
                    surplus--;
                }
            }
        }
        end = begin;
    }
}

/* The bounds of the rank-th largest, from a sample; where it is smaller than its margin there is no bound. */
static void NAMED(guess)(NAMED(Seen) *seen, const FLOAT *values, size_t count, KEY bits, size_t rank, KEY *keys) {
    KEY *copy = keys + SAMPLE;
    for (size_t i = 0; i < SAMPLE; i++)
        keys[i] = NAMED(key_of)(NAMED(ranked)(values[(size_t)((double)i * (double)count / SAMPLE)], bits));
    double share = (double)rank / (double)count, place = share * SAMPLE;
    double margin = 4.0 * sqrt(place * (1.0 - share)) + 4.0;
    memcpy(copy, keys, SAMPLE * sizeof *keys);
    seen->high = (FLOAT)INFINITY;
    seen->low = -(FLOAT)INFINITY;
    if (place - margin >= 1.0)
        seen->high = NAMED(number_of)(NAMED(among)(copy, SAMPLE, NAMED(BITS), (size_t)(place - margin)));
    if (place + margin <= SAMPLE)
        seen->low = NAMED(number_of)(NAMED(among)(keys, SAMPLE, NAMED(BITS), (size_t)(place + margin)));
}

/* The rank-th largest of many values, and the mask of those that are kept if it is not NULL, in one pass: a sample tells
 * between which bounds it probably lies, and only what is there is ranked. Values equal to a bound are counted, not ranked:
 * of few different values any number may be. SMK_BAD_INPUT if the sample misled, or if too much lies there. */
static int NAMED(by_sample)(const FLOAT *values, size_t count, KEY bits, size_t rank, FLOAT *cut, uint8_t *mask) {
    size_t room = count / 8, slots = room + BLOCK + SLACK;
    /* the sample's memory is that of what is found later */
    size_t bytes = slots * (sizeof(FLOAT) + sizeof(uint32_t)), sample = 2 * SAMPLE * sizeof(KEY);
    void *memory = malloc(bytes > sample ? bytes : sample);
    if (!memory) return SMK_NO_MEMORY;
    NAMED(Seen) seen = {.found = memory, .places = (uint32_t *)((FLOAT *)memory + slots)};
    NAMED(guess)(&seen, values, count, bits, rank, memory);
    for (size_t i = 0; i < count && seen.used <= room; i += BLOCK)
        NAMED(see)(&seen, values, i, count - i < BLOCK ? count - i : BLOCK, bits, rank, mask);
    int status = SMK_BAD_INPUT;
    size_t at_most = seen.reached + seen.used;
    if (seen.nan) {
        status = SMK_NAN;
    } else if (seen.used > room || seen.above >= rank) {
        status = SMK_BAD_INPUT;
    } else if (rank <= seen.reached) {
        *cut = seen.high;
        if (mask) NAMED(remove_ties)(values, seen.ties, bits, *cut, seen.marked - rank, mask);
        status = SMK_OK;
    } else if (rank <= at_most) {
        size_t wanted = rank - seen.reached, over = 0;
        status = NAMED(kth_by_bins)(seen.found, seen.used, (KEY)-1, wanted, cut);
        if (status == SMK_OK && mask) {
            for (size_t i = 0; i < seen.used; i++) over += seen.found[i] > *cut;
            size_t ties = wanted - over;
            for (size_t i = 0; i < seen.used; i++) {
                int tie = (seen.found[i] == *cut) & (ties > 0);
                ties -= (size_t)tie;
                mask[seen.places[i]] = (uint8_t)(tie | (seen.found[i] > *cut));
            }
        }
    } else if (seen.low < seen.high) {
        *cut = seen.low;
        if (mask)
            for (size_t i = 0; i < seen.used; i++) mask[seen.places[i]] = 1;
        if (NAMED(add_ties)(values, count, bits, *cut, rank - at_most, mask) == 0) status = SMK_OK;
    }
    free(memory);
    return status;
}

static int NAMED(select)(const FLOAT *values, int64_t size, int64_t place, int magnitude, FLOAT *cut, uint8_t *mask) {
    if (place < 1 || place > size) return SMK_BAD_INPUT;
    const KEY bits = magnitude ? (KEY)-1 >> 1 : (KEY)-1;
    const size_t count = (size_t)size, rank = (size_t)place;
    if (count >= MANY && count <= UINT32_MAX) {
        int status = NAMED(by_sample)(values, count, bits, rank, cut, mask);
        if (status != SMK_BAD_INPUT) return status;
    }
    int status = NAMED(kth_by_bins)(values, count, bits, rank, cut);
    if (status != SMK_OK || !mask) return status;
    size_t kept = 0;
    for (size_t begin = 0; begin < count; begin += BLOCK) {
        size_t end = count - begin < BLOCK ? count : begin + BLOCK;
        uint32_t here = 0;
        for (size_t i = begin; i < end; i++) mask[i] = NAMED(ranked)(values[i], bits) >= *cut;
        for (size_t i = begin; i < end; i++) here += mask[i];
        kept += here;
    }
    NAMED(remove_ties)(values, count, bits, *cut, kept - rank, mask);
    return SMK_OK;
}

int SMK_SIMD(NAMED(smk_kth))(const FLOAT *values, int64_t count, int64_t rank, FLOAT *result) {
    return NAMED(select)(values, count, rank, 0, result, NULL);
}

int SMK_SIMD(NAMED(smk_kth_magnitude))(const FLOAT *values, int64_t count, int64_t rank, FLOAT *result) {
    return NAMED(select)(values, count, rank, 1, result, NULL);
}

int SMK_SIMD(NAMED(smk_largest))(const FLOAT *values, int64_t count, int64_t rank, uint8_t *mask) {
    FLOAT cut;
    return NAMED(select)(values, count, rank, 0, &cut, mask);
}

int SMK_SIMD(NAMED(smk_largest_magnitude))(const FLOAT *values, int64_t count, int64_t rank, uint8_t *mask) {
    FLOAT cut;
    return NAMED(select)(values, count, rank, 1, &cut, mask);
}
