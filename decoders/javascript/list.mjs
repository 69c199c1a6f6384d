// Print name, type, shape and CRC-32 of the data of every tensor of a file: node list.mjs FILE
import { readFileSync } from "node:fs";
import { PackedFileError, crc32, unpack } from "./supermask_unpack.mjs";

try {
  for (const [name, tensor] of unpack(new Uint8Array(readFileSync(process.argv[2]))).tensors) {
    const crc = crc32(tensor.bytes).toString(16).padStart(8, "0");
    console.log(`${name} ${tensor.type} (${tensor.shape}) ${crc}`);
  }
} catch (error) {
  if (!(error instanceof PackedFileError)) throw error;
  console.error(`${process.argv[2]}: ${error.message}`);
  process.exitCode = 1;
}
