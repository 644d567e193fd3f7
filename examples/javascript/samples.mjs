/** Samples: an object from field name ("image", "label") to a tensor whose first axis counts samples. */

import { HostError } from "./errors.mjs";
import { elements, zeros } from "./safetensors.mjs";

/** Return the number of samples. */
export function sampleCount(samples) {
  return Object.values(samples)[0].shape[0];
}

/** Return `count` samples from number `start` on; behind the last sample comes the first one again. */
export function take(samples, start, count) {
  return Object.fromEntries(Object.entries(samples).map(([name, field]) => [name, takeField(field, start, count)]));
}

/**
 * Return the samples of a split ("train" or "test") of the file that prepare.py writes, given its tensors.
 *
 * Throws HostError if there are none, or if its fields do not have equally many.
 */
export function splitOf(tensors, split) {
  const fields = [...tensors].filter(([name]) => name.startsWith(`${split}.`));
  if (!fields.length) throw new HostError(`the data have no split "${split}"`);
  const [[first, { shape: [total] }]] = fields;
  for (const [name, { shape }] of fields) {
    if (!shape[0]) throw new HostError(`the field "${name}" of the data has no samples; its shape is [${shape}]`);
    if (shape[0] !== total) {
      throw new HostError(`the data have ${total} samples of "${first}", but ${shape[0]} of "${name}"`);
    }
  }
  return Object.fromEntries(fields.map(([name, tensor]) => [name.slice(split.length + 1), tensor]));
}

function takeField({ dtype, shape: [total, ...shape], data }, start, count) {
  const each = elements(shape);
  const taken = zeros(dtype, count * each);
  for (let number = 0; number < count; number++) {
    const from = ((start + number) % total) * each;
    taken.set(data.subarray(from, from + each), number * each);
  }
  return { dtype, shape: [count, ...shape], data: taken };
}
