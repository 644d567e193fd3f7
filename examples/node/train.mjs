/**
 * Train a compiled network with onnxruntime-node, write its weights, evaluate it, and classify some samples.
 *
 *     python ../browser/prepare.py && npm ci && npm start
 */

import { readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { Artifact, HostError, Trainer, readSafetensors, splitOf, take } from "../javascript/index.mjs";

const GENERATED = fileURLToPath(new URL("../browser/generated/", import.meta.url));
const USAGE = `usage: node train.mjs [--generated FOLDER] [--steps N] [--threads N] [--out FILE]

--generated  what prepare.py wrote: ${GENERATED}
--steps      updates to make: 50
--threads    of ONNX Runtime: all cores
--out        file for the trained weights: weights.safetensors`;

const SHOWN = 5; // samples to classify
const DIVERGED = 4; // the exit code of netc train

/** Training that has no use any more. */
class Diverged extends HostError {}

function options() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        generated: { type: "string", default: GENERATED },
        steps: { type: "string", default: "50" },
        threads: { type: "string", default: "0" },
        out: { type: "string", default: "weights.safetensors" },
        help: { type: "boolean", short: "h", default: false },
      },
    }));
  } catch (error) {
    throw new HostError(`${error.message}\n${USAGE}`);
  }
  for (const [name, least, most] of [["steps", 1, 2 ** 31 - 1], ["threads", 0, 256]]) {
    const number = Number(values[name]);
    if (!Number.isInteger(number) || number < least || number > most) {
      throw new HostError(`--${name} should be a whole number from ${least} to ${most}, not ${values[name]}`);
    }
    values[name] = number;
  }
  return values;
}

async function read(path) {
  try {
    return new Uint8Array(await readFile(path));
  } catch (error) {
    if (error.code !== "ENOENT") throw new HostError(error.message);
    throw new HostError(`${path} does not exist; make it with python examples/browser/prepare.py`);
  }
}

async function engine() {
  try {
    return await import("onnxruntime-node");
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new HostError("onnxruntime-node is not installed; run npm ci in examples/node");
  }
}

/** Throw HostError if a file cannot be written there: before training, not after it. */
async function requireWritable(path) {
  const [folder, there] = await Promise.all([dirname(path), path].map((name) => stat(name).catch(() => null)));
  if (!folder?.isDirectory()) throw new HostError(`${dirname(path)}, the folder of --out, does not exist`);
  if (there?.isDirectory()) throw new HostError(`--out ${path} is a folder; name a file`);
}

/** Write a file that is there as a whole or not at all. */
async function write(path, bytes) {
  const partial = `${path}.${process.pid}.partial`;
  try {
    await writeFile(partial, bytes);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw new HostError(`${path} cannot be written: ${error.message}`);
  }
}

/** Return the names of the classes that the data know. */
function classesOf(metadata) {
  try {
    return JSON.parse(metadata.classes ?? "[]");
  } catch (error) {
    throw new HostError(`the names of classes in the data are not JSON: ${error.message}`);
  }
}

const line = (metrics) => Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`).join("  ");

async function train(trainer, samples) {
  const { artifact, maxSteps } = trainer;
  const { batch_size: batch, name } = artifact.manifest;
  const [start, runsBefore] = [performance.now(), trainer.runs];
  while (trainer.steps < maxSteps) {
    const before = trainer.steps;
    const metrics = await trainer.step(take(samples, trainer.runs * batch, batch));
    const { steps } = trainer;
    if (artifact.isDiverged(metrics)) throw new Diverged(`training diverged: total is ${metrics.total} at step ${steps}`);
    if (steps > before && (steps % 10 === 0 || steps === maxSteps)) console.log(`step ${steps}/${maxSteps}  ${line(metrics)}`);
  }
  const rate = ((trainer.runs - runsBefore) * batch * 1000) / (performance.now() - start);
  console.log(`${name}: ${Math.round(rate)} images/s`);
}

/** Classify the first test samples by the inference program; does nothing for a network that has no classes. */
async function classify(trainer, test, names) {
  const scores = trainer.artifact.interface("infer").outputs.find(({ label, shape }) => label && shape.length === 2);
  if (!scores || !test[scores.label]) return;
  const some = take(test, 0, SHOWN);
  const { data, shape } = (await trainer.predict(some))[scores.name];
  const nameOf = (index) => names[index] ?? String(index);
  for (let sample = 0; sample < shape[0]; sample++) {
    const row = data.subarray(sample * shape[1], (sample + 1) * shape[1]);
    const best = row.indexOf(Math.max(...row));
    const truth = Number(some[scores.label].data[sample]);
    const verdict = best === truth ? "right" : `wrong, it is ${nameOf(truth)}`;
    console.log(`test:${sample}  ${nameOf(best)}  ${row[best].toFixed(3)}  (${verdict})`);
  }
}

async function main() {
  const { generated, steps, threads, out, help } = options();
  if (help) return console.log(USAGE);
  await requireWritable(out);
  const artifact = await Artifact.load((name) => read(join(generated, "model", name)));
  const { tensors, metadata } = readSafetensors(await read(join(generated, "digits.safetensors")));
  const [samples, test] = [splitOf(tensors, "train"), splitOf(tensors, "test")];
  const classes = classesOf(metadata);
  const sessionOptions = threads ? { intraOpNumThreads: threads } : {};
  const maxSteps = artifact.firstStep + steps;
  const trainer = await Trainer.create(await engine(), artifact, { maxSteps, sessionOptions });

  await train(trainer, samples);
  await write(out, await trainer.weights("netc node example"));
  console.log(`wrote ${out}`);

  const { metrics } = await trainer.evaluate(test);
  console.log(`test: ${line(metrics)}`);
  await classify(trainer, test, classes);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof HostError)) throw error;
  console.error(error.message);
  process.exitCode = error instanceof Diverged ? DIVERGED : 2;
}
