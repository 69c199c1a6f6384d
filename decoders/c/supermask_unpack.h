/* Unpack packed networks; the format is in docs/packed-format.md. Plain C11, no dependencies. */
#ifndef SUPERMASK_UNPACK_H
#define SUPERMASK_UNPACK_H

#include <stddef.h>
#include <stdint.h>

enum { SUPERMASK_MOST_AXES = 32 };

/* Types by their number in the file. */
static const char *const supermask_types[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16",
                                              "I8",  "U64", "U32", "U16",  "U8",  "BOOL"};

typedef struct {
    char *name; /* UTF-8, ends with a zero byte */
    int type;
    int axes;
    uint64_t shape[SUPERMASK_MOST_AXES];
    uint64_t size;  /* bytes */
    uint8_t *data;  /* row-major, the lowest byte of a number first */
} supermask_tensor;

typedef struct {
    char *description; /* JSON, UTF-8: architecture, classes and so on; ends with a zero byte */
    size_t count;
    supermask_tensor *tensors;
} supermask_file;

/* Unpack the content of a file into tensors of at most `limit` bytes together. Returns NULL, or what is wrong; then `file`
 * holds nothing. */
const char *supermask_unpack(const uint8_t *content, size_t size, uint64_t limit, supermask_file *file);

void supermask_free(supermask_file *file);

/* CRC-32 as zip and PNG use it. */
uint32_t supermask_crc32(const uint8_t *data, size_t size);

#endif
