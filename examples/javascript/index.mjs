/** A host for netc's programs in JavaScript: no dependency but the ONNX Runtime that it is given. */

export { Artifact } from "./artifact.mjs";
export { HostError } from "./errors.mjs";
export { readSafetensors, writeSafetensors } from "./safetensors.mjs";
export { sampleCount, splitOf, take } from "./samples.mjs";
export { Trainer } from "./trainer.mjs";
