/**
 * Safetensors files: eight bytes with the length of a JSON header, the header, and the values of all tensors.
 *
 * A tensor is `{dtype, shape, data}` here: `dtype` as in manifest.json ("float32"), `data` a typed array in row-major
 * order.
 */

import { HostError } from "./errors.mjs";

const TYPES = {
  F64: ["float64", Float64Array],
  F32: ["float32", Float32Array],
  I64: ["int64", BigInt64Array],
  U64: ["uint64", BigUint64Array],
  I32: ["int32", Int32Array],
  U32: ["uint32", Uint32Array],
  I16: ["int16", Int16Array],
  U16: ["uint16", Uint16Array],
  I8: ["int8", Int8Array],
  U8: ["uint8", Uint8Array],
  BOOL: ["bool", Uint8Array],
};
const CODES = Object.fromEntries(Object.entries(TYPES).map(([code, [dtype]]) => [dtype, code]));
const ARRAYS = Object.fromEntries(Object.values(TYPES));
const PREFIX = 8;

/** Return a new typed array of `length` zeros for a dtype; throws HostError for one that has none. */
export function zeros(dtype, length) {
  const Type = ARRAYS[dtype];
  if (!Type) throw new HostError(`tensors of ${dtype} are not supported; known: ${Object.keys(ARRAYS).join(", ")}`);
  return new Type(length);
}

/**
 * Read a file from its bytes (Uint8Array) into `{tensors, metadata}`: a Map from name to tensor, and an object of texts.
 *
 * Throws HostError if the bytes are no complete safetensors file: tensors fill it without gaps.
 */
export function readSafetensors(file) {
  // A Buffer of Node is a Uint8Array whose slices are views, not copies.
  const bytes = new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
  if (bytes.length < PREFIX) throw damaged(`it has only ${bytes.length} bytes`);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, PREFIX).getBigUint64(0, true));
  if (length > bytes.length - PREFIX) throw damaged(`its header should have ${length} bytes`);
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(PREFIX, PREFIX + length)));
  } catch (error) {
    throw damaged(`its header is not JSON (${error.message})`);
  }
  if (!isObject(header)) throw damaged("its header is no object");
  const { __metadata__: metadata = {}, ...entries } = header;
  if (!isObject(metadata)) throw damaged("its metadata are no object");
  const values = bytes.subarray(PREFIX + length);
  const tensors = new Map();
  const spans = [];
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, data_offsets: offsets } = entry ?? {};
    if (!areSizes(shape) || !areSizes(offsets) || offsets.length !== 2) {
      throw damaged(`the header of "${name}" has no shape and data_offsets of whole numbers`);
    }
    if (!Object.hasOwn(TYPES, dtype)) throw new HostError(`the tensor "${name}" is ${dtype}, which is not supported`);
    const [type, Type] = TYPES[dtype];
    const [start, end] = offsets;
    const size = Type.BYTES_PER_ELEMENT * elements(shape);
    if (end - start !== size || end > values.length) throw damaged(`"${name}" should have ${size} bytes`);
    spans.push(offsets);
    // A copy, because a typed array has to begin at a multiple of its element's size.
    tensors.set(name, { dtype: type, shape, data: new Type(values.slice(start, end).buffer) });
  }
  spans.sort(([a, b], [c, d]) => a - c || b - d);
  const isFull = spans.every(([start], at) => start === (at ? spans[at - 1][1] : 0));
  if (!isFull || (spans.at(-1)?.[1] ?? 0) !== values.length) throw damaged("its tensors overlap, or leave gaps");
  return { tensors, metadata };
}

const damaged = (why) => new HostError(`this is not a complete safetensors file: ${why}`);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const areSizes = (value) => Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);

/**
 * Return the bytes (Uint8Array) of a file with the tensors of a Map and an object of texts as metadata.
 *
 * Equal content gives equal bytes: wide elements come first, so that all stay aligned, then names decide.
 */
export function writeSafetensors(tensors, metadata = {}) {
  const width = ({ data }) => data.BYTES_PER_ELEMENT;
  const sorted = [...tensors].sort(([a, x], [b, y]) => width(y) - width(x) || (a < b ? -1 : 1));
  const header = { __metadata__: metadata };
  let size = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    header[name] = { dtype: CODES[dtype], shape, data_offsets: [size, size + data.byteLength] };
    size += data.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(text.length / PREFIX) * PREFIX;
  const bytes = new Uint8Array(PREFIX + length + size).fill(0x20, 0, PREFIX + length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, PREFIX);
  let place = PREFIX + length;
  for (const [, { data }] of sorted) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), place);
    place += data.byteLength;
  }
  return bytes;
}

/** Return the number of elements of a shape. */
export function elements(shape) {
  return shape.reduce((product, size) => product * size, 1);
}
