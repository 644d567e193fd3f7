"""A host of its own: trains a compiled network with ONNX Runtime, NumPy and safetensors, and nothing of netc.

    python examples/browser/prepare.py      # compiles lenet_dsn, and writes the digits into one file
    cd examples/browser/generated
    python ../../host.py model digits.safetensors 220 weights.safetensors
    netc export model --checkpoint weights.safetensors -o model.onnx

docs/deploy.md explains each step, for hosts in other languages.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

if len(sys.argv) != 5:
    sys.exit("usage: python host.py ARTIFACT DATA STEPS WEIGHTS")
artifact, steps, out = Path(sys.argv[1]), sys.argv[3], Path(sys.argv[4])
if not steps.isdecimal() or int(steps) == 0 or out.is_dir() or not out.absolute().parent.is_dir():
    sys.exit(f"STEPS should be a number from 1 on, not {steps}, and WEIGHTS a file in a folder that exists, not {out}")
try:
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    state, data = load_file(artifact / "init.safetensors"), load_file(sys.argv[2])
except (OSError, ValueError, SafetensorError) as error:
    sys.exit(f"ARTIFACT or DATA cannot be read: {error}")
inputs, outputs = (manifest["graphs"]["train"][key] for key in ("inputs", "outputs"))
asks = [key for key in ("phases", "init_from", "population_batches") if key in manifest]
if "package" not in manifest:  # netc export --what train computes them beforehand
    asks += [tensor["role"] for tensor in manifest["state"] if tensor["role"] in ("data_mean", "data_std")]
if asks:
    sys.exit(f"{manifest['name']} needs {', '.join(asks)}, which this host does not do; train it with netc train")
options = ort.SessionOptions()
options.intra_op_num_threads = 1  # so that sums have the same order, and weights the same bits, on any number of cores
session = ort.InferenceSession(artifact / "train.onnx", options, providers=["CPUExecutionProvider"])

first, runs = int(state["step"]), manifest.get("iter_size", 1)  # updates made before; runs that make one
if "max_steps" in state:
    state["max_steps"] = np.array(first + int(steps), np.float32)
for buffer in manifest.get("packed", []):
    state[buffer["name"]] = np.concatenate([state.pop(part["name"]).ravel() for part in buffer["tensors"]])

for run in range(first * runs, (first + int(steps)) * runs):
    rows = np.arange(run * manifest["batch_size"], (run + 1) * manifest["batch_size"])
    fields = {x["name"]: (data[f"train.{x['field']}"], x["dtype"]) for x in inputs if x["role"] == "batch"}
    batch = {name: field[rows % len(field)].astype(dtype) for name, (field, dtype) in fields.items()}
    feed = batch | {x["name"]: state[x["name"]] for x in inputs if x["role"] == "state"}
    results = dict(zip([y["name"] for y in outputs], session.run([y["name"] for y in outputs], feed), strict=True))
    state |= {y["feeds"]: results[y["name"]] for y in outputs if y["role"] == "next"}
    print(state["step"], {y["name"]: float(results[y["name"]]) for y in outputs if y["role"] == "metric"})
    if not np.isfinite(results["total"]) and manifest["spec"]["solver"]["precision"] != "mixed":
        sys.exit(f"training diverged: total is {results['total']} at step {state['step']}")

for buffer in manifest.get("packed", []):
    flat = state.pop(buffer["name"])
    for part in buffer["tensors"]:
        state[part["name"]] = flat[part["offset"] :][: np.prod(part["shape"], dtype=int)].reshape(part["shape"])
save_file(state, out)
