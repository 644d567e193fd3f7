/** Trains in a thread of its own, so that the page stays responsive. Told what to do, and telling, by messages. */

import { Artifact, Trainer, readSafetensors, sampleCount, splitOf, take } from "../javascript/index.mjs";

// The third bundle, ort.webgpu, has no float64 in its part for the CPU, in which learning rates and folding are computed.
const ENGINES = { wasm: "ort.wasm.bundle.min.mjs", webgpu: "ort.bundle.min.mjs" };
const PREPARE = "python examples/browser/prepare.py";
const ERRORS_ONLY = 3;
const STEPS_BETWEEN_TESTS = 10;
const RATE_MEMORY = 0.9; // weight of the past in the mean time of a run

let trainer;
let train;
let test;
let running = false;
let loop = Promise.resolve();
let secondsPerRun = 0;

/** Training that has no use any more, but may begin anew. */
class Diverged extends Error {}

/** An error that the visitor can mend; `command` does it. */
class Missing extends Error {
  constructor(message, command) {
    super(message);
    this.command = command;
  }
}

// Programs share one engine, which runs one at a time.
let last = Promise.resolve();
function inTurn(action) {
  const result = last.then(action);
  last = result.catch(() => {}); // whoever asked hears of it through `result`
  return result;
}

/** Let messages in between two steps; a timer would wait for 4 ms. */
const { port1, port2 } = new MessageChannel();
const breathe = () =>
  new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(null);
  });

async function read(name) {
  const response = await fetch(`generated/${name}`);
  if (!response.ok) {
    throw new Missing(`The server has no generated/${name}.`, PREPARE);
  }
  return new Uint8Array(await response.arrayBuffer());
}

async function engineOf(name) {
  try {
    return await import(`./node_modules/onnxruntime-web/dist/${ENGINES[name]}`);
  } catch (error) {
    throw new Missing(`onnxruntime-web could not be loaded (${error.message}).`, "cd examples/browser && npm ci");
  }
}

/** Return the trainer on WebGPU and an empty notice; or null and why there is none. */
async function onWebGPU(artifact, maxSteps) {
  if (!(await navigator.gpu?.requestAdapter())) {
    return [null, "This browser offers no WebGPU here; training runs on WebAssembly instead."];
  }
  let made;
  try {
    const sessionOptions = { executionProviders: ["webgpu", "wasm"], logSeverityLevel: ERRORS_ONLY };
    const options = { maxSteps, sessionOptions, stateOnDevice: true };
    made = await Trainer.create(await engineOf("webgpu"), artifact, options);
    await made.step(take(train, 0, artifact.manifest.batch_size)); // what an engine refuses, it may say only now
    made.reset();
    return [made, ""];
  } catch (error) {
    await made?.release();
    return [null, `WebGPU refused the training step (${error.message}); training runs on WebAssembly instead.`];
  }
}

async function load({ engine, steps }) {
  const artifact = await Artifact.load((name) => read(`model/${name}`));
  const { tensors, metadata } = readSafetensors(await read("digits.safetensors"));
  [train, test] = [splitOf(tensors, "train"), splitOf(tensors, "test")];
  if (!metadata.value_range) throw new Missing("generated/digits.safetensors has no value_range.", PREPARE);
  const maxSteps = steps ? artifact.firstStep + steps : artifact.plannedSteps(sampleCount(train));
  let notice = "";
  if (engine === "webgpu") [trainer, notice] = await onWebGPU(artifact, maxSteps);
  const isGPU = Boolean(trainer);
  if (!trainer) {
    const ort = await engineOf("wasm");
    const sessionOptions = { executionProviders: ["wasm"], logSeverityLevel: ERRORS_ONLY };
    trainer = await Trainer.create(ort, artifact, { maxSteps, sessionOptions });
    engine = `WebAssembly, ${ort.env.wasm.numThreads === 1 ? "1 thread" : `${ort.env.wasm.numThreads} threads`}`;
  }
  const parameters = artifact.interface("infer").inputs.filter(({ role }) => role === "parameter");
  const { data: values, shape } = train.image;
  const [, full] = JSON.parse(metadata.value_range);
  postMessage({
    type: "ready",
    name: artifact.manifest.name,
    engine: isGPU ? "WebGPU" : engine,
    notice,
    firstStep: artifact.firstStep,
    maxSteps,
    trainingSamples: shape[0],
    parameters: parameters.reduce((sum, spec) => sum + spec.shape.reduce((a, b) => a * b, 1), 0),
    losses: [...artifact.metricsOf("loss"), ...artifact.metricsOf("side_loss")],
    accuracy: artifact.metricsOf("accuracy")[0],
    full,
    ink: values.reduce((sum, value) => sum + value, 0) / values.length / full,
    test,
  });
  await measure();
}

async function measure() {
  const { metrics, outputs } = await inTurn(() => trainer.evaluate(test));
  const [{ data, shape }] = Object.values(outputs);
  const predicted = Array.from({ length: shape[0] }, (_, sample) => {
    const scores = data.subarray(sample * shape[1], (sample + 1) * shape[1]);
    return scores.indexOf(Math.max(...scores));
  });
  postMessage({ type: "test", step: trainer.steps, metrics, predicted });
}

async function run() {
  const { batch_size: batch } = trainer.artifact.manifest;
  const { maxSteps } = trainer;
  while (running && trainer.steps < maxSteps) {
    const [start, before] = [performance.now(), trainer.steps];
    const metrics = await inTurn(() => trainer.step(take(train, trainer.runs * batch, batch)));
    const seconds = (performance.now() - start) / 1000;
    secondsPerRun = secondsPerRun ? RATE_MEMORY * secondsPerRun + (1 - RATE_MEMORY) * seconds : seconds;
    const { steps } = trainer;
    if (steps > before) postMessage({ type: "step", step: steps, metrics, rate: batch / secondsPerRun });
    if (trainer.artifact.isDiverged(metrics)) {
      throw new Diverged(`Training diverged: the loss is ${metrics.total} at step ${steps}. Reset starts anew.`);
    }
    if (steps > before && (steps % STEPS_BETWEEN_TESTS === 0 || steps === maxSteps)) await measure();
    await breathe();
  }
  running = false;
  postMessage({ type: "stopped", finished: trainer.steps >= maxSteps });
}

const ACTIONS = {
  load,
  train() {
    running = true;
    loop = loop.catch(() => {}).then(run); // never two at a time; whoever started one hears of its failure
    return loop;
  },
  pause() {
    running = false;
  },
  async reset() {
    running = false;
    await loop.catch(() => {});
    await inTurn(() => trainer.reset());
    secondsPerRun = 0;
    postMessage({ type: "reset" });
    await measure();
  },
  async predict({ id, image }) {
    const { shape } = test.image;
    const samples = { image: { dtype: "float32", shape: [1, ...shape.slice(1)], data: image } };
    const [{ data }] = Object.values(await inTurn(() => trainer.predict(samples)));
    postMessage({ type: "prediction", id, probabilities: data });
  },
  async weights() {
    const bytes = await inTurn(() => trainer.weights("netc browser example"));
    postMessage({ type: "weights", bytes }, [bytes.buffer]);
  },
};

onmessage = async ({ data }) => {
  try {
    await ACTIONS[data.type](data);
  } catch (error) {
    running = false;
    const type = error instanceof Diverged ? "diverged" : "failure";
    postMessage({ type, message: error.message, command: error.command ?? null });
  }
};
