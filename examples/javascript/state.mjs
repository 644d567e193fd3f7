/**
 * State by the names of its tensors, and as programs take it.
 *
 * Programs compiled with `--target web` may take many tensors as one flat buffer, because each tensor that crosses the
 * border of the engine costs time. The manifest's `packed` lists such buffers: each `{name, dtype, size, tensors}`, where
 * `tensors` says at which element each tensor begins.
 */

import { elements, zeros } from "./safetensors.mjs";

/** Return a Map of what programs take, made of a Map of named tensors. */
export function pack(named, manifest) {
  const state = new Map(named);
  for (const { name, dtype, size, tensors } of manifest.packed ?? []) {
    const data = zeros(dtype, size);
    for (const { name: part, offset } of tensors) {
      data.set(named.get(part).data, offset);
      state.delete(part);
    }
    state.set(name, { dtype, shape: [size], data });
  }
  return state;
}

/** Return a Map of named tensors, in the order of the manifest's `state`, made of a Map of what programs take. */
export function unpack(state, manifest) {
  const found = new Map(state);
  const shapes = new Map(manifest.state.map(({ name, shape }) => [name, shape]));
  for (const { name, dtype, tensors } of manifest.packed ?? []) {
    for (const { name: part, offset } of tensors) {
      const shape = shapes.get(part);
      found.set(part, { dtype, shape, data: state.get(name).data.slice(offset, offset + elements(shape)) });
    }
  }
  return new Map(manifest.state.map(({ name }) => [name, found.get(name)]));
}
