// Unpack packed networks in browsers and node; the format is in docs/packed-format.md. No dependencies.
//
//     const { description, tensors } = unpack(new Uint8Array(await (await fetch(url)).arrayBuffer()));
//     tensors.get("fc1.weight")  // { type: "F32", shape: [300, 784], bytes: Uint8Array, values: Float32Array }
//
// `values` is a typed array where there is one for the type: BF16 and F16 are given as their bits (Uint16Array), BOOL as bytes.

const TYPES = [
  ["F64", 8, Float64Array], ["F32", 4, Float32Array], ["F16", 2, Uint16Array], ["BF16", 2, Uint16Array],
  ["I64", 8, BigInt64Array], ["I32", 4, Int32Array], ["I16", 2, Int16Array], ["I8", 1, Int8Array],
  ["U64", 8, BigUint64Array], ["U32", 4, Uint32Array], ["U16", 2, Uint16Array], ["U8", 1, Uint8Array], ["BOOL", 1, Uint8Array],
];
const FLOATS = 4; // the first types of the list
const F32 = 1;
const BOOL = 12;
const LARGEST = 2 ** 48;

/** What is wrong with a file. */
export class PackedFileError extends Error {}

function need(right, message) {
  if (!right) throw new PackedFileError(message);
}

/** CRC-32 as zip and PNG use it. */
export function crc32(bytes) {
  const table = new Uint32Array(256).map((_, i) => {
    for (let bit = 0; bit < 8; bit++) i = (i >>> 1) ^ (i & 1 ? 0xedb88320 : 0);
    return i;
  });
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  take(size) {
    need(size <= this.left, "cut off");
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  varint() {
    let value = 0;
    for (let i = 0; i < 7; i++) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) return value;
    }
    throw new PackedFileError("a number is too long");
  }

  text() {
    return decodeText(this.take(this.varint()));
  }

  /** A set of numbers below n. */
  members(n) {
    const mode = this.byte();
    need(mode <= 4, "a set of positions is damaged");
    if (mode < 2) return new Members(n, new Float64Array(0), mode === 1);
    if (mode === 2) {
      const bitmap = this.take(Math.ceil(n / 8));
      const found = [];
      for (let i = 0; i < 8 * bitmap.length; i++) if ((bitmap[i >>> 3] >> (i & 7)) & 1) found.push(i);
      need(!found.length || found.at(-1) < n, "a bitmap has members beyond its end");
      return new Members(n, Float64Array.from(found), false);
    }
    const count = this.varint();
    return new Members(n, decodeGaps(this.take(this.varint()), count, n), mode === 4);
  }
}

/** A set as it is stored, so that a set that stands for much takes no memory. */
class Members {
  constructor(n, stored, inverted) {
    [this.stored, this.inverted] = [stored, inverted];
    this.count = inverted ? n - stored.length : stored.length;
  }

  /** How many stored numbers are right by a test that the first ones pass. */
  first(test) {
    let [low, high] = [0, this.stored.length];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (test(this.stored[middle], middle)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The member of a rank, from 0. */
  at(rank) {
    return this.inverted ? rank + this.first((number, before) => number - before <= rank) : this.stored[rank];
  }

  has(number) {
    return (this.stored[this.first((other) => other < number)] === number) !== this.inverted;
  }
}

function decodeText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new PackedFileError("a text is not UTF-8");
  }
}

/** `count` bits (at most 30) from a bit position. */
function bits(bytes, at, count) {
  let value = 0;
  for (let i = 0; i < count; ) {
    const offset = (at + i) % 8;
    const more = Math.min(8 - offset, count - i);
    value += ((bytes[Math.floor((at + i) / 8)] >> offset) & ((1 << more) - 1)) * 2 ** i;
    i += more;
  }
  return value;
}

function decodeGaps(code, count, n) {
  const damaged = "a set of positions is damaged";
  need(code.length >= 2 && count >= 1 && count <= Math.min(n, 8 * code.length) && n <= LARGEST, damaged);
  const [base, width, block] = [code[0], code[1] & 15, 2 ** (4 + (code[1] >> 4))];
  const blocks = Math.ceil(count / block);
  const lowStart = 2 + Math.ceil((blocks * width) / 8);
  need(base <= 30 && width <= 4 && lowStart <= code.length, damaged);
  const parameters = code.subarray(2, lowStart);
  let lowBits = 0;
  for (let i = 0; i < blocks; i++) {
    const k = base + bits(parameters, i * width, width);
    need(k <= 30, damaged);
    lowBits += k * (i + 1 < blocks ? block : count - i * block);
  }
  const unaryStart = lowStart + Math.ceil(lowBits / 8);
  need(unaryStart < code.length && code[code.length - 1], damaged);
  const [low, unary] = [code.subarray(lowStart, unaryStart), code.subarray(unaryStart)];
  const found = new Float64Array(count);
  let [at, lowAt, next] = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    const k = base + bits(parameters, Math.floor(i / block) * width, width);
    const start = at;
    while (at < 8 * unary.length && !((unary[at >>> 3] >> (at & 7)) & 1)) at++;
    need(at < 8 * unary.length, damaged);
    next += (at++ - start) * 2 ** k + bits(low, lowAt, k);
    lowAt += k;
    need(next < n, damaged);
    found[i] = next++;
  }
  need(Math.ceil(at / 8) === unary.length && unary[unary.length - 1] >> ((at - 1) & 7) === 1, damaged);
  return found;
}

/** High and low half of the product of two numbers below 2^32. */
function multiply(a, b) {
  const [ah, al, bh, bl] = [a >>> 16, a & 65535, b >>> 16, b & 65535];
  const middle = ah * bl + ((al * bl) >>> 16);
  const other = (middle & 65535) + al * bh;
  return [(ah * bh + Math.floor(middle / 65536) + Math.floor(other / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

/** 1 where Philox4x32 gives the sign -1 to a place; seed and stream are [low, high]. */
function generated(seed, stream, place, sides) {
  const word = sides ? place : Math.floor(place / 32);
  const block = Math.floor(word / 4);
  let c = [block % 2 ** 32, Math.floor(block / 2 ** 32), ...stream];
  let [k0, k1] = seed;
  for (let i = 0; i < 10; i++) {
    const [p, q] = [multiply(c[0], 0xd2511f53), multiply(c[2], 0xcd9e8d57)];
    c = [(q[0] ^ c[1] ^ k0) >>> 0, q[1], (p[0] ^ c[3] ^ k1) >>> 0, p[1]];
    [k0, k1] = [(k0 + 0x9e3779b9) >>> 0, (k1 + 0xbb67ae85) >>> 0];
  }
  return (~(c[word % 4] >>> (sides ? 31 : place % 32)) & 1) >>> 0;
}

function half(bits16) {
  const [sign, exponent, fraction] = [bits16 >> 15 ? -1 : 1, (bits16 >> 10) & 31, bits16 & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

function sparse(r, type, shape, out) {
  const item = TYPES[type][1];
  const form = r.byte();
  const [kind, swapped, perRow, sides] = [form & 3, form & 4, form & 16, form & 32];
  const draws = form & 40;
  need(
    form < 64 && draws !== 40 && (!draws || kind === 0) && (!perRow || kind === 0 || kind === 3) &&
      (kind !== 0 || type < FLOATS) && (kind < 2 || type === F32),
    "the form of a sparse tensor is unknown",
  );
  const generator = draws ? new Uint32Array(r.take(16).slice().buffer) : null;
  const [height, width] = [shape[0], shape.length > 1 ? shape[1] : 1];
  const depth = shape.slice(2).reduce((a, b) => a * b, 1);
  const [rows, columns] = [r.members(height), r.members(width)];
  const positions = r.members(rows.count * columns.count * depth);
  const m = positions.count;
  const scales = kind === 0 || kind === 3 ? r.take((perRow ? rows.count : 1) * item) : null;
  const inverted = kind === 0 ? r.members(m) : null;
  const values = kind === 0 ? null : r.take(m * [0, item, 2, 1][kind]);
  const [outView, scaleView] = [view(out), scales && view(scales)];
  for (let i = 0; i < m; i++) {
    const position = positions.at(i);
    const [place, inner] = [Math.floor(position / depth), position % depth];
    const row = swapped ? place % rows.count : Math.floor(place / columns.count);
    const column = swapped ? Math.floor(place / rows.count) : place % columns.count;
    const flat = (rows.at(row) * width + columns.at(column)) * depth + inner;
    const at = flat * item;
    const scaleAt = perRow ? row * item : 0;
    if (kind === 0) {
      let negative = inverted.has(i) ? 1 : 0;
      if (generator) negative ^= generated(generator.subarray(0, 2), generator.subarray(2), flat, sides);
      out.set(scales.subarray(scaleAt, scaleAt + item), at);
      out[at + item - 1] ^= negative << 7;
    } else if (kind === 1) {
      out.set(values.subarray(i * item, (i + 1) * item), at);
    } else if (kind === 2) {
      outView.setFloat32(at, half(values[2 * i] | (values[2 * i + 1] << 8)), true);
    } else {
      outView.setFloat32(at, ((values[i] << 24) >> 24) * scaleView.getFloat32(scaleAt, true), true);
    }
  }
}

function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function parseHeader(bytes) {
  try {
    return JSON.parse(decodeText(bytes));
  } catch (error) {
    throw new PackedFileError(`the header or description is not JSON (${error.message}): no packed file, or damaged`);
  }
}

function readEntry(r) {
  const name = r.text();
  const [coding, type, axes] = r.take(3);
  need(coding < 4 && type < TYPES.length && axes <= 32, `the coding, type or shape of ${name} is unknown`);
  const shape = Array.from({ length: axes }, () => r.varint());
  let product = 1;
  for (const axis of shape) need((product *= axis || 1) <= LARGEST, `${name} is too large`);
  const numel = shape.reduce((a, b) => a * b, 1);
  return { name, coding, type, shape, numel, size: r.varint() };
}

/** Unpack the content of a file (a Uint8Array) into tensors of at most `limit` bytes together. */
export function unpack(content, limit = 2 ** 30) {
  need(content.length >= 8, "not a packed file, or cut off");
  const length = Number(view(content).getBigUint64(0, true));
  need(length <= content.length - 8, "not a packed file, or cut off");
  const header = parseHeader(content.subarray(8, 8 + length));
  const blob = content.subarray(8 + length);
  const row = header?.packed;
  const text = header?.__metadata__?.supermask;
  need(
    typeof text === "string" && row?.dtype === "U8" && `${row.shape}` === `${blob.length}` &&
      `${row.data_offsets}` === `0,${blob.length}` && blob.length >= 16,
    "not a packed file, or cut off",
  );
  const start = view(blob);
  need(decodeText(blob.subarray(0, 4)) === "SMKP", "not a packed file");
  const format = start.getUint16(4, true);
  need(format === 1, `of format ${format}, this reads 1`);
  const [bodyBytes, textBytes] = [blob.subarray(16), new TextEncoder().encode(text)];
  need(
    start.getUint16(6, true) === 0 && start.getUint32(8, true) === crc32(bodyBytes) &&
      start.getUint32(12, true) === crc32(textBytes),
    "wrong checksum: it is damaged",
  );
  const body = new Reader(bodyBytes);
  const count = body.varint();
  need(count <= body.left / 5, "cut off");
  const entries = Array.from({ length: count }, () => readEntry(body));
  const total = entries.reduce((sum, entry) => sum + entry.numel * TYPES[entry.type][1], 0);
  need(total <= limit, `it decodes to ${total} bytes, more than ${limit}`);
  const tensors = new Map();
  const order = [];
  for (const { name, coding, type, shape, numel, size } of entries) {
    const [typeName, item, Kind] = TYPES[type];
    const part = new Reader(body.take(size));
    const bytes = new Uint8Array(numel * item);
    if (coding === 0) {
      bytes.set(part.take(bytes.length));
    } else if (coding === 2) {
      const other = order[part.varint()];
      need(other?.type === typeName && `${other.shape}` === `${shape}`, `${name} cannot be equal to that tensor`);
      bytes.set(other.bytes);
    } else {
      need(shape.length && numel, `${name} has no entries, but is not dense`);
      if (coding === 3) sparse(part, type, shape, bytes);
      else {
        const one = part.take(item);
        for (let at = 0; at < bytes.length; at += item) bytes.set(one, at);
      }
    }
    need(part.left === 0 && !tensors.has(name), `${name} is damaged, or there twice`);
    need(type !== BOOL || bytes.every((byte) => byte < 2), `${name} holds bools that are neither 0 nor 1`);
    const tensor = { type: typeName, shape, bytes, values: new Kind(bytes.buffer) };
    tensors.set(name, tensor);
    order.push(tensor);
  }
  need(body.left === 0, "bytes are left over");
  return { description: parseHeader(textBytes), tensors };
}
