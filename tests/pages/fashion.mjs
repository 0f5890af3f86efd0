// Images of the real Fashion-MNIST as PNG files, for uploads. Owns the reading of Debian's IDX files and the smallest possible PNG.

import { readFileSync } from "node:fs";
import zlib, { deflateSync, gunzipSync } from "node:zlib";

const FOLDER = "/usr/share/datasets/fashion-mnist";
const EDGE = 28;

/** The first `count` training images as `{name, mimeType, buffer}`. */
export function images(count) {
  const pixels = gunzipSync(readFileSync(`${FOLDER}/train-images-idx3-ubyte.gz`)).subarray(16);
  return Array.from({ length: count }, (_, index) => ({
    name: `image-${String(index).padStart(4, "0")}.png`,
    mimeType: "image/png",
    buffer: png(pixels.subarray(index * EDGE * EDGE, (index + 1) * EDGE * EDGE)),
  }));
}

/** A grey PNG of 28 by 28. */
function png(pixels) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(EDGE, 0);
  header.writeUInt32BE(EDGE, 4);
  header[8] = 8;
  const rows = Buffer.concat(Array.from({ length: EDGE }, (_, row) => Buffer.concat([Buffer.of(0), pixels.subarray(row * EDGE, (row + 1) * EDGE)])));
  const signature = Buffer.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

function chunk(type, content) {
  const named = Buffer.concat([Buffer.from(type, "ascii"), content]);
  const ends = Buffer.alloc(8);
  ends.writeUInt32BE(content.length, 0);
  ends.writeUInt32BE(checksum(named), 4);
  return Buffer.concat([ends.subarray(0, 4), named, ends.subarray(4)]);
}

/** CRC-32; node:zlib has it from version 22 on. */
function checksum(bytes) {
  if (zlib.crc32) return zlib.crc32(bytes);
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return (sum ^ 0xffffffff) >>> 0;
}
