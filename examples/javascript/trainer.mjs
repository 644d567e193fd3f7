/** Training, evaluation and prediction by the programs of an artifact, on any ONNX Runtime for JavaScript. */

import { HostError } from "./errors.mjs";
import { elements, writeSafetensors, zeros } from "./safetensors.mjs";
import { sampleCount, take } from "./samples.mjs";
import { pack, unpack } from "./state.mjs";

/** A network that learns: its programs are functions, its state is here. */
export class Trainer {
  #ort;
  #sessions = new Map();
  #options;
  #onDevice;
  #state = new Map();
  #inference = null;

  /**
   * `ort` is the module onnxruntime-web or onnxruntime-node; `maxSteps` is the number of the update at which schedules end,
   * counted as `steps` is; `sessionOptions` go to each session. With `stateOnDevice`, for WebGPU, float32 state stays on
   * the GPU between steps.
   *
   * Throws HostError if the engine refuses a program.
   */
  static async create(ort, artifact, { maxSteps, sessionOptions = {}, stateOnDevice = false }) {
    const trainer = new Trainer(ort, artifact, maxSteps, sessionOptions, stateOnDevice);
    try {
      for (const key of ["train", "eval", "fold", "infer"]) await trainer.#open(key);
    } catch (error) {
      await trainer.release();
      throw error;
    }
    trainer.reset();
    return trainer;
  }

  constructor(ort, artifact, maxSteps, sessionOptions, stateOnDevice) {
    this.#ort = ort;
    this.artifact = artifact;
    this.maxSteps = maxSteps;
    this.#options = sessionOptions;
    this.#onDevice = stateOnDevice;
    this.runs = 0;
  }

  /** The number of updates that the state has seen; a package of a checkpoint begins above 0. */
  get steps() {
    return Number(this.#state.get(this.artifact.stepName).data[0]);
  }

  /** Give back what the engine holds; the trainer is of no use afterwards. */
  async release() {
    this.#replace(new Map());
    for (const tensor of this.#state.values()) this.#release(tensor);
    this.#state.clear();
    for (const session of this.#sessions.values()) await session.release();
    this.#sessions.clear();
  }

  async #open(key) {
    const stays = ({ role, dtype }) => role !== "metric" && role !== "output" && dtype === "float32";
    const options = { ...this.#options };
    if (this.#onDevice && (key === "train" || key === "fold")) {
      const outputs = this.artifact.interface(key).outputs;
      options.preferredOutputLocation = Object.fromEntries(
        outputs.map((spec) => [spec.name, stays(spec) ? "gpu-buffer" : "cpu"]),
      );
    }
    const program = await this.artifact.program(key);
    try {
      this.#sessions.set(key, await this.#ort.InferenceSession.create(program, options));
    } catch (error) {
      throw new HostError(`${this.artifact.interface(key).file} cannot be loaded: ${error.message}`);
    }
  }

  /** Go back to the initial state. */
  reset() {
    const named = new Map(this.artifact.initial);
    for (const { name, role, dtype } of this.artifact.manifest.state) {
      if (role === "max_steps") named.set(name, { dtype, shape: [], data: zeros(dtype, 1).fill(this.maxSteps) });
    }
    const first = pack(named, this.artifact.manifest);
    this.#replace(new Map([...first].map(([name, tensor]) => [name, this.#tensor(tensor)])));
    this.runs = this.steps * this.artifact.runsPerUpdate;
  }

  /**
   * Run the training program on a batch of `batch_size` samples, such as `{image, label}`; return its metrics by name.
   *
   * Each `artifact.runsPerUpdate`-th run makes an update, of which `steps` counts one more; `runs` counts them all.
   *
   * Throws Error if the engine does; the state is then what it was before.
   */
  async step(batch) {
    const results = await this.#run("train", { ...this.#stateOf("train"), ...this.#batchOf("train", batch) });
    const next = new Map();
    const metrics = {};
    for (const { name, role, feeds } of this.artifact.interface("train").outputs) {
      if (role === "next") next.set(feeds, results[name]);
      if (role === "metric") metrics[name] = Number(results[name].data[0]);
    }
    this.#replace(next);
    this.runs += 1;
    return metrics;
  }

  /**
   * Return `{metrics, outputs}` of the network in test mode on any number of samples, `batch_size` at a time.
   *
   * Metrics are means, weighted by what the program says that each batch counts. Outputs are tensors by name.
   */
  async evaluate(samples) {
    const interface_ = this.artifact.interface("eval");
    const measured = interface_.outputs.filter(({ role }) => role === "metric");
    const sums = Object.fromEntries(measured.map(({ name }) => [name, [0, 0]]));
    const outputs = await this.#inBatches("eval", samples, this.#stateOf("eval"), (results) => {
      for (const { name, weight } of measured) {
        const counts = Number(results[weight].data[0]);
        if (counts > 0) {
          sums[name][0] += counts * Number(results[name].data[0]);
          sums[name][1] += counts;
        }
      }
    });
    const metrics = Object.fromEntries(Object.entries(sums).map(([name, [sum, counts]]) => [name, sum / counts]));
    return { metrics, outputs };
  }

  /**
   * Return the outputs of the exported form of the network, batch norm folded away, as tensors by name.
   *
   * Outputs that are logits become probabilities.
   */
  async predict(samples) {
    if (!this.#inference) {
      const results = await this.#run("fold", this.#stateOf("fold"));
      const folded = this.artifact.interface("fold").outputs.filter(({ role }) => role === "parameter");
      this.#inference = Object.fromEntries(folded.map(({ name, feeds }) => [feeds, results[name]]));
    }
    const outputs = await this.#inBatches("infer", samples, this.#inference, () => {});
    for (const { name, activation } of this.artifact.interface("infer").outputs) {
      if (activation === "logits") softmax(outputs[name]);
    }
    return outputs;
  }

  /** Return all state as a Map from name to tensor, parameters and what only training needs. */
  async state() {
    const values = new Map();
    for (const [name, tensor] of this.#state) {
      values.set(name, { dtype: tensor.type, shape: [...tensor.dims], data: await tensor.getData() });
    }
    return unpack(values, this.artifact.manifest);
  }

  /** Return all state as the bytes of a safetensors file; `trainedBy` goes into its metadata. */
  async weights(trainedBy) {
    const metadata = { network: this.artifact.manifest.name, step: String(this.steps), trained_by: trainedBy };
    return writeSafetensors(await this.state(), metadata);
  }

  #replace(next) {
    for (const [name, tensor] of next) {
      this.#release(this.#state.get(name));
      this.#state.set(name, tensor);
    }
    for (const tensor of Object.values(this.#inference ?? {})) this.#release(tensor);
    this.#inference = null;
  }

  #release(tensor) {
    if (tensor?.location === "gpu-buffer") tensor.dispose(); // memory that no garbage collector sees
  }

  #tensor({ dtype, shape, data }) {
    return new this.#ort.Tensor(dtype, data, shape);
  }

  #run(key, feeds) {
    return this.#sessions.get(key).run(feeds);
  }

  #stateOf(key) {
    const inputs = this.artifact.interface(key).inputs.filter(({ role }) => role === "state");
    return Object.fromEntries(inputs.map(({ name }) => [name, this.#state.get(name)]));
  }

  #batchOf(key, samples) {
    const inputs = this.artifact.interface(key).inputs.filter(({ role }) => role === "batch");
    return Object.fromEntries(inputs.map((spec) => [spec.name, this.#tensor(fitted(spec, samples))]));
  }

  async #inBatches(key, samples, parameters, watch) {
    const { inputs, outputs } = this.artifact.interface(key);
    const isGiven = outputs.filter(({ role }) => role === "output");
    const parts = Object.fromEntries(isGiven.map(({ name }) => [name, []]));
    const total = sampleCount(samples);
    const constant = Object.fromEntries(
      inputs.filter(({ role }) => role !== "batch").map(({ name }) => [name, parameters[name]]),
    );
    for (let start = 0; start < total; start += this.artifact.manifest.batch_size) {
      const count = Math.min(this.artifact.manifest.batch_size, total - start);
      const results = await this.#run(key, { ...constant, ...this.#batchOf(key, take(samples, start, count)) });
      watch(results);
      for (const { name } of isGiven) parts[name].push(results[name]);
    }
    return Object.fromEntries(Object.entries(parts).map(([name, tensors]) => [name, joined(tensors)]));
  }
}

/** Return the field of a batch input in the dtype that the program takes; throws HostError if it does not fit. */
function fitted({ name, field, dtype, shape }, samples) {
  const given = samples[field];
  if (!given) throw new HostError(`a batch needs the field "${field}" for the input "${name}"`);
  const fits = given.shape.length === shape.length && shape.every((size, axis) => size === "N" || size === given.shape[axis]);
  if (!fits) throw new HostError(`the input "${name}" takes [${shape}], but "${field}" is [${given.shape}]`);
  if (given.dtype === dtype) return given;
  const data = zeros(dtype, given.data.length);
  const convert = dtype.endsWith("int64") ? BigInt : Number;
  given.data.forEach((value, index) => (data[index] = convert(value)));
  return { dtype, shape: given.shape, data };
}

function joined(tensors) {
  const [, ...shape] = tensors[0].dims;
  const count = tensors.reduce((sum, tensor) => sum + tensor.dims[0], 0);
  const data = zeros(tensors[0].type, count * elements(shape));
  let place = 0;
  for (const tensor of tensors) {
    data.set(tensor.data, place);
    place += tensor.data.length;
  }
  return { dtype: tensors[0].type, shape: [count, ...shape], data };
}

/** Replace the scores along axis 1 of [N, classes, ...] by their softmax. */
function softmax({ shape: [samples, classes, ...rest], data }) {
  const places = elements(rest);
  for (let sample = 0; sample < samples; sample++) {
    for (let place = 0; place < places; place++) {
      const at = (index) => (sample * classes + index) * places + place;
      let [largest, sum] = [-Infinity, 0];
      for (let index = 0; index < classes; index++) largest = Math.max(largest, data[at(index)]);
      for (let index = 0; index < classes; index++) sum += data[at(index)] = Math.exp(data[at(index)] - largest);
      for (let index = 0; index < classes; index++) data[at(index)] /= sum;
    }
  }
}
