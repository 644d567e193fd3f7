/** The folder that `netc compile` writes, as far as a host needs it (docs/artifact.md). */

import { readSafetensors } from "./safetensors.mjs";

const FORMAT = "netc.artifact";
const FORMAT_VERSION = 1;

/** The manifest, the initial state, and the ONNX programs of a compiled folder. */
export class Artifact {
  #read;

  constructor(manifest, initial, read) {
    this.manifest = manifest;
    this.initial = initial;
    this.#read = read;
  }

  /**
   * Load a folder through `read`, a function from a file name to a promise of its bytes (Uint8Array).
   *
   * Throws Error for what is no artifact, and for one that asks more of its host than running steps.
   */
  static async load(read) {
    const manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    if (manifest.format !== FORMAT || manifest.format_version !== FORMAT_VERSION) {
      throw new Error(`manifest.json is not a manifest of ${FORMAT}, version ${FORMAT_VERSION}; compile the spec again`);
    }
    const why = notSupported(manifest);
    if (why) throw new Error(`${manifest.name} ${why}, which this host does not do; train it with netc train`);
    const { tensors } = readSafetensors(await read("init.safetensors"));
    for (const { name } of manifest.state) {
      if (!tensors.has(name)) throw new Error(`init.safetensors has no tensor "${name}"; compile the spec again`);
    }
    return new Artifact(manifest, tensors, read);
  }

  /** Return the inputs and outputs of a program: "train", "eval", "fold" or "infer". */
  interface(key) {
    return this.manifest.graphs[key];
  }

  /** Return a promise of the bytes of a program. */
  program(key) {
    return this.#read(this.interface(key).file);
  }

  /** Return the number of updates that the spec plans for so many training samples, as the driver counts them. */
  plannedSteps(samples) {
    const { batch_size: batch, iter_size: parts = 1, spec } = this.manifest;
    return spec.solver.max_iter ?? spec.solver.max_epochs * Math.floor(samples / (batch * parts));
  }

  /** Return the names of the metrics of one kind, such as "loss", "side_loss" or "accuracy". */
  metricsOf(kind) {
    return this.manifest.metrics.filter((metric) => metric.kind === kind).map((metric) => metric.name);
  }
}

function notSupported(manifest) {
  if (manifest.phases?.length > 1) return "is trained in phases";
  if (manifest.init_from) return "starts from other weights";
  if (manifest.population_batches) return "ends with population statistics";
  if (manifest.state.some(({ role }) => role === "data_mean" || role === "data_std")) return "computes statistics of data";
  return null;
}
