/** The folder that `netc compile` writes, as far as a host needs it (docs/artifact.md). */

import { HostError } from "./errors.mjs";
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
   * Throws HostError for what is no artifact, and for one that asks more of its host than running steps.
   */
  static async load(read) {
    const manifest = parsed(new TextDecoder().decode(await read("manifest.json")));
    if (manifest?.format !== FORMAT || manifest.format_version !== FORMAT_VERSION) {
      throw new HostError(`manifest.json is not a manifest of ${FORMAT}, version ${FORMAT_VERSION}; compile the spec again`);
    }
    const why = notSupported(manifest);
    if (why) throw new HostError(`${manifest.name} ${why}, which this host does not do; train it with netc train`);
    const { tensors } = readSafetensors(await read("init.safetensors"));
    for (const { name } of manifest.state) {
      if (!tensors.has(name)) throw new HostError(`init.safetensors has no tensor "${name}"; compile the spec again`);
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

  /** The number of runs of the training program that make one update. */
  get runsPerUpdate() {
    return this.manifest.iter_size ?? 1;
  }

  /** The name of the state that counts updates. */
  get stepName() {
    return this.manifest.state.find(({ role }) => role === "step").name;
  }

  /** The number of updates that the initial state has seen: more than 0 in a package of a checkpoint. */
  get firstStep() {
    return Number(this.initial.get(this.stepName).data[0]);
  }

  /** Return the number of updates that the spec plans for so many training samples, as the driver counts them. */
  plannedSteps(samples) {
    const { batch_size: batch, spec } = this.manifest;
    return spec.solver.max_iter ?? spec.solver.max_epochs * Math.floor(samples / (batch * this.runsPerUpdate));
  }

  /** Return whether the metrics of a step say that training has diverged; mixed precision leaves such updates out. */
  isDiverged({ total }) {
    return !Number.isFinite(total) && this.manifest.spec.solver.precision !== "mixed";
  }

  /** Return the names of the metrics of one kind, such as "loss", "side_loss" or "accuracy". */
  metricsOf(kind) {
    return this.manifest.metrics.filter((metric) => metric.kind === kind).map((metric) => metric.name);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HostError(`manifest.json is not JSON (${error.message}); compile the spec again`);
  }
}

function notSupported(manifest) {
  if (manifest.phases) return "is trained in phases";
  if (manifest.init_from) return "starts from other weights";
  if (manifest.population_batches) return "ends with population statistics";
  if (manifest.package) return null; // what netc export --what train writes has the statistics
  if (manifest.state.some(({ role }) => role === "data_mean" || role === "data_std")) return "computes statistics of data";
  return null;
}
