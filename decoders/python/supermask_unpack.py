"""Unpack a packed network with numpy alone: ``load(path)`` gives its arrays by name. The format: docs/packed-format.md."""

import json
import math
import zlib

import numpy as np

# by number; bfloat16 is given as its bits
TYPES = [np.dtype(t) for t in ("<f8", "<f4", "<f2", "<u2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?")]


def load(path, limit=1 << 30):
    """All tensors of a file; ValueError if it is damaged, or if they would take more than ``limit`` bytes.

    Decoding takes up to some 100 bytes more for each weight that remains.
    """
    try:
        return tensors(np.fromfile(path, np.uint8).tobytes(), limit)
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no packed file, or damaged: {error!r}") from error


def need(right, message="a set of positions is damaged"):
    if not right:
        raise ValueError(message)


def tensors(data, limit):
    length = int.from_bytes(data[:8], "little")
    header, blob = json.loads(data[8 : 8 + length]), data[8 + length :]
    need(header["packed"] == {"dtype": "U8", "shape": [len(blob)], "data_offsets": [0, len(blob)]}, "cut off")
    body, text = Reader(blob[16:]), header["__metadata__"]["supermask"].encode()
    # "SMKP", the format, the checksums
    need(blob[:16] == np.array([0x504B4D53, 1, zlib.crc32(body.data), zlib.crc32(text)], "<u4").tobytes(), "damaged")
    entries, found = [], {}
    for _ in range(body.varint()):
        name, (coding, number, axes) = body.take(body.varint()).decode(), body.take(3)
        entries.append((name, coding, number, tuple(body.varint() for _ in range(axes)), body.varint()))
    need(sum(math.prod(entry[3]) * TYPES[entry[2]].itemsize for entry in entries) <= limit, f"over {limit} bytes")
    for name, coding, number, shape, size in entries:
        payload, numel, dtype = Reader(body.take(size)), math.prod(shape), TYPES[number]
        if coding == 2:
            value = list(found.values())[payload.varint()]
        elif coding == 3:
            value = sparse(payload, number, shape)
        else:
            value = np.repeat(payload.array(dtype, (numel, 1)[coding]), (1, numel)[coding]).reshape(shape)
        right = (value.dtype, value.shape, payload.at) == (dtype, shape, size) and name not in found
        need(right and (number < 12 or (value.view("u1") < 2).all()), f"{name} is damaged")
        found[name] = value
    need(body.at == len(body.data), "bytes are left over")
    return found


def sparse(r, number, shape):
    form, dtype = r.take(1)[0], TYPES[number]
    kind, bits = form & 3, np.dtype(f"<u{dtype.itemsize}")
    flags, types = ((0x3C, range(4)), (4, range(13)), (4, [1]), (0x14, [1]))[kind]
    need(form | flags == flags | kind and form & 40 < 40 and number in types, f"form {form} is unknown")
    generator = r.array("<u8", 2).tolist() if form & 40 else None
    height, width, depth = shape[0], math.prod(shape[1:2]), math.prod(shape[2:])
    rows, columns = r.members(height), r.members(width)
    place, inner = np.divmod(r.members(len(rows) * len(columns) * depth), depth)
    row, column = np.divmod(place, len(rows))[::-1] if form & 4 else np.divmod(place, len(columns))
    flat, out = (rows[row] * width + columns[column]) * depth + inner, np.zeros(shape, bits)
    scale = np.ones(1, "<f4") if kind in (1, 2) else r.array(bits, len(rows))[row] if form & 16 else r.array(bits, 1)
    if kind == 0:
        negative = np.isin(np.arange(len(flat)), r.members(len(flat))).astype(bits)
        negative ^= generated(*generator, flat, form & 32).astype(bits) if generator else bits.type(0)
        values = scale ^ negative << bits.type(8 * dtype.itemsize - 1)
    else:
        stored = r.array((bits, "<f2", "i1")[kind - 1], len(flat))
        values = stored if kind == 1 else (stored.astype("<f4") * scale.view("<f4")).view(bits)
    out.reshape(-1)[flat] = values
    return out.view(dtype)


def generated(seed, stream, flat, sides):
    """1 where Philox4x32 gives the sign -1."""
    word, low, high = (flat if sides else flat >> 5).astype(np.uint64), 0xFFFFFFFF, np.uint64(32)
    c = [(word >> 2) & low, word >> 34, np.full_like(word, stream & low), np.full_like(word, stream >> 32)]
    for i in range(10):
        k0, k1 = np.uint64((seed + i * 0x9E3779B9) & low), np.uint64(((seed >> 32) + i * 0xBB67AE85) & low)
        p, q = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(q >> high) ^ c[1] ^ k0, q & low, (p >> high) ^ c[3] ^ k1, p & low]
    return ~(np.choose((word & 3).astype(int), c).astype(np.int64) >> (31 if sides else flat & 31)) & 1


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        need(self.at + size <= len(self.data), "cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def array(self, dtype, count):
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype).copy()

    def varint(self, shift=0):
        byte = self.take(1)[0]
        need(shift < 49, "a number is too long")
        return byte if byte < 128 else byte - 128 + (self.varint(shift + 7) << 7)

    def numbers(self, widths):
        bits = np.unpackbits(self.array("u1", (int(widths.sum()) + 7) // 8), bitorder="little")
        start, bits = np.cumsum(widths) - widths, np.append(bits, np.zeros(45, np.uint8)).astype(np.int64)
        return sum(((widths > b) * bits[start + b] << b for b in range(widths.max())), np.zeros(len(widths), np.int64))

    def members(self, n):
        mode = self.take(1)[0]
        if mode < 2:
            return np.arange(n * mode)
        if mode == 2:
            bits = np.unpackbits(self.array("u1", (n + 7) // 8), bitorder="little")
            return need(not bits[n:].any()) or np.flatnonzero(bits)
        count, code = self.varint(), Reader(self.take(self.varint()))
        base, width, block = code.take(1)[0], code.data[1] & 15, 16 << (code.take(1)[0] >> 4)
        need(mode < 5 and 1 <= count <= min(n, 8 * len(code.data)) and base < 31 and width < 5)
        k = np.repeat(base + code.numbers(np.full(-(-count // block), width)), min(block, count))[:count]
        low, ones = code.numbers(k), np.unpackbits(code.array("u1", len(code.data) - code.at), bitorder="little")
        quotients = np.diff(np.flatnonzero(ones), prepend=-1) - 1
        need(k.max() < 31 and len(quotients) == count and ones[-8:].any() and (quotients <= n >> k).all())
        found = np.cumsum((quotients << k) + low + 1) - 1
        need(found[-1] < n)
        return found if mode == 3 else np.delete(np.arange(n), found)
