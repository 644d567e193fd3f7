/**
 * Train a compiled network with onnxruntime-node, evaluate it, classify some digits, and write its weights.
 *
 *     python ../browser/prepare.py && npm ci && npm start
 */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { Artifact, Trainer, readSafetensors, splitOf, take } from "../javascript/index.mjs";

const GENERATED = fileURLToPath(new URL("../browser/generated/", import.meta.url));
const USAGE = `usage: node train.mjs [--generated FOLDER] [--steps N] [--threads N] [--out FILE]

--generated  what prepare.py wrote: ${GENERATED}
--steps      updates to make: 50
--threads    of ONNX Runtime: all cores
--out        file for the trained weights: weights.safetensors`;

/** A mistake of the user, said in one sentence. */
class Mistake extends Error {}

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
    throw new Mistake(`${error.message}\n${USAGE}`);
  }
  for (const [name, least] of [["steps", 1], ["threads", 0]]) {
    const number = Number(values[name]);
    if (!Number.isInteger(number) || number < least) {
      throw new Mistake(`--${name} should be a whole number, at least ${least}, not ${values[name]}`);
    }
    values[name] = number;
  }
  return values;
}

async function read(path) {
  try {
    return new Uint8Array(await readFile(path));
  } catch (error) {
    if (error.code !== "ENOENT") throw new Mistake(error.message);
    throw new Mistake(`${path} does not exist; make it with python examples/browser/prepare.py`);
  }
}

async function engine() {
  try {
    return await import("onnxruntime-node");
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new Mistake("onnxruntime-node is not installed; run npm ci in examples/node");
  }
}

const line = (metrics) => Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`).join("  ");

async function main() {
  const { generated, steps, threads, out, help } = options();
  if (help) return console.log(USAGE);
  const artifact = await Artifact.load((name) => read(join(generated, "model", name)));
  const { tensors, metadata } = readSafetensors(await read(join(generated, "digits.safetensors")));
  const [train, test] = [splitOf(tensors, "train"), splitOf(tensors, "test")];
  const sessionOptions = threads ? { intraOpNumThreads: threads } : {};
  const trainer = await Trainer.create(await engine(), artifact, { plannedSteps: steps, sessionOptions });

  const { batch_size: batch, name } = artifact.manifest;
  const start = performance.now();
  for (let step = 0; step < steps; step++) {
    const metrics = await trainer.step(take(train, step * batch, batch));
    if ((step + 1) % 10 === 0 || step + 1 === steps) console.log(`step ${step + 1}/${steps}  ${line(metrics)}`);
  }
  const rate = (steps * batch * 1000) / (performance.now() - start);
  console.log(`${name}: ${Math.round(rate)} images/s`);

  const { metrics } = await trainer.evaluate(test);
  console.log(`test: ${line(metrics)}`);

  const some = take(test, 0, 5);
  const [{ data, shape }] = Object.values(await trainer.predict(some));
  const classes = JSON.parse(metadata.classes);
  for (let sample = 0; sample < shape[0]; sample++) {
    const row = data.subarray(sample * shape[1], (sample + 1) * shape[1]);
    const best = row.indexOf(Math.max(...row));
    const truth = Number(some.label.data[sample]);
    const verdict = best === truth ? "right" : `wrong, it is ${classes[truth]}`;
    console.log(`test:${sample}  ${classes[best]}  ${row[best].toFixed(3)}  (${verdict})`);
  }

  await writeFile(out, await trainer.weights("netc node example"));
  console.log(`wrote ${out}`);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof Mistake)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
