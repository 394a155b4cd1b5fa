/** Arrays in the format .npy: uint8 and float32, C order, little endian. */

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0];
const KINDS = { "|u1": Uint8Array, "<f4": Float32Array };

/** Read an array; returns its `shape` and its `data` as a typed array. */
export function readNpy(buffer) {
  const length = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, 10, length));
  const kind = KINDS[/'descr':\s*'([^']+)'/.exec(header)?.[1]];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (!kind || shape === undefined) throw new Error(`an array of another kind: ${header.trim()}`);
  return { shape: shape.split(",").filter((part) => part.trim()).map(Number), data: new kind(buffer.slice(10 + length)) };
}

/** Write a float32 array of a shape. */
export function writeNpy(data, shape) {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${tuple}), }`;
  const header = text.padEnd(64 * Math.ceil((text.length + 11) / 64) - 11) + "\n";
  const bytes = new TextEncoder().encode(header);
  const length = new Uint8Array([bytes.length % 256, bytes.length >> 8]);
  return new Blob([new Uint8Array(MAGIC), length, bytes, data]);
}
