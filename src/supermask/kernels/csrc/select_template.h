/* The selection of select_simd.c for one type. Defined before: FLOAT, KEY (unsigned, as wide), SIGNED_KEY, NAMED(name). */

enum { NAMED(BITS) = 8 * sizeof(KEY) };

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
static void NAMED(count_values)(const FLOAT *values, size_t count, int shift, size_t *bins) {
    uint32_t lanes[LANES][BINS];
    size_t i = 0;
    while (i < count) {
        size_t end = count - i < MOST_COUNTED ? count : i + MOST_COUNTED;
        memset(lanes, 0, sizeof lanes);
        for (; i + LANES <= end; i += LANES)
            for (int lane = 0; lane < LANES; lane++) lanes[lane][NAMED(key_of)(values[i + lane]) >> shift]++;
        for (; i < end; i++) lanes[0][NAMED(key_of)(values[i]) >> shift]++;
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
static int NAMED(kth_by_bins)(const FLOAT *values, size_t count, size_t rank, FLOAT *result) {
    int shift = NAMED(BITS) - BIN_BITS;
    size_t bins[BINS] = {0};
    NAMED(count_values)(values, count, shift, bins);
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
        KEY key = NAMED(key_of)(values[i]);
        keys[found] = key;
        found += key >> shift == bin;
    }
    *result = NAMED(number_of)(NAMED(among)(keys, size, shift, rank));
    free(keys);
    return SMK_OK;
}

/* Appends what lies in [low, high] to `found`, which holds `used` of at most `room` entries, and a vector more; counts what is
 * above. The new number of entries; more than `room` if they do not fit. */
static size_t NAMED(collect)(const FLOAT *values, size_t count, FLOAT low, FLOAT high, FLOAT *found, size_t used,
                             size_t room, size_t *above, int *nan) {
    uint32_t over = 0, within = 0, bad = 0;
    for (size_t i = 0; i < count; i++) {
        over += values[i] > high;
        within += (values[i] >= low) & (values[i] <= high);
        bad |= values[i] != values[i];
    }
    *above += over;
    *nan |= (int)bad;
    if (used + within > room) return room + 1;
    size_t i = 0;
#ifdef COMPRESS
    for (; i + COMPRESS <= count; i += COMPRESS) used += NAMED(compress)(values + i, low, high, found + used);
#endif
    for (; i < count; i++) {
        found[used] = values[i];
        used += (values[i] >= low) & (values[i] <= high);
    }
    return used;
}

/* The same for many values: a sample tells between which two values the rank-th largest probably lies, and only what is
 * there is ranked. SMK_BAD_INPUT if it does not lie there, or if too much does. */
static int NAMED(kth_by_sample)(const FLOAT *values, size_t count, size_t rank, FLOAT *result) {
    enum { SAMPLE = 8192 };
    KEY keys[SAMPLE], copy[SAMPLE];
    for (size_t i = 0; i < SAMPLE; i++) keys[i] = NAMED(key_of)(values[(size_t)((double)i * (double)count / SAMPLE)]);
    double share = (double)rank / (double)count, place = share * SAMPLE;
    double margin = 4.0 * sqrt(place * (1.0 - share)) + 4.0;
    FLOAT low = -(FLOAT)INFINITY, high = (FLOAT)INFINITY;
    memcpy(copy, keys, sizeof keys);
    if (place - margin >= 1.0) high = NAMED(number_of)(NAMED(among)(copy, SAMPLE, NAMED(BITS), (size_t)(place - margin)));
    if (place + margin <= SAMPLE) low = NAMED(number_of)(NAMED(among)(keys, SAMPLE, NAMED(BITS), (size_t)(place + margin)));
    size_t room = count / 8, used = 0, above = 0;
    int nan = 0;
    FLOAT *found = malloc((room + SLACK) * sizeof *found);
    if (!found) return SMK_NO_MEMORY;
    for (size_t i = 0; i < count && used <= room; i += BLOCK)
        used = NAMED(collect)(values + i, count - i < BLOCK ? count - i : BLOCK, low, high, found, used, room, &above, &nan);
    int status = SMK_BAD_INPUT;
    if (nan)
        status = SMK_NAN;
    else if (used <= room && above < rank && rank <= above + used)
        status = NAMED(kth_by_bins)(found, used, rank - above, result);
    free(found);
    return status;
}

static int NAMED(kth)(const FLOAT *values, size_t count, size_t rank, FLOAT *result) {
    if (count >= MANY) {
        int status = NAMED(kth_by_sample)(values, count, rank, result);
        if (status != SMK_BAD_INPUT) return status;
    }
    return NAMED(kth_by_bins)(values, count, rank, result);
}

int SMK_SIMD(NAMED(smk_kth))(const FLOAT *values, int64_t count, int64_t rank, FLOAT *result) {
    if (rank < 1 || rank > count) return SMK_BAD_INPUT;
    return NAMED(kth)(values, (size_t)count, (size_t)rank, result);
}

int SMK_SIMD(NAMED(smk_largest))(const FLOAT *restrict values, int64_t count, int64_t rank, uint8_t *restrict mask) {
    FLOAT cut;
    if (rank < 1 || rank > count) return SMK_BAD_INPUT;
    int status = NAMED(kth)(values, (size_t)count, (size_t)rank, &cut);
    if (status != SMK_OK) return status;
    size_t n = (size_t)count, kept = 0;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        size_t end = n - begin < BLOCK ? n : begin + BLOCK;
        uint32_t here = 0;
        for (size_t i = begin; i < end; i++) mask[i] = values[i] >= cut;
        for (size_t i = begin; i < end; i++) here += mask[i];
        kept += here;
    }
    /* of those equal to the cut, the last ones are too many */
    for (size_t end = n; kept > (size_t)rank;) {
        size_t begin = end > BLOCK ? end - BLOCK : 0;
        uint32_t ties = 0;
        for (size_t i = begin; i < end; i++) ties += values[i] == cut;
        if (ties <= kept - (size_t)rank) {
            for (size_t i = begin; i < end; i++) mask[i] = values[i] > cut;
            kept -= ties;
        } else {
            for (size_t i = end; kept > (size_t)rank; i--) {
                if (values[i - 1] == cut) {
                    mask[i - 1] = 0;
                    kept--;
                }
            }
        }
        end = begin;
    }
    return SMK_OK;
}
