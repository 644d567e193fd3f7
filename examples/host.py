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
from safetensors.numpy import load_file, save_file

if len(sys.argv) != 5:
    sys.exit("usage: python host.py ARTIFACT DATA STEPS WEIGHTS")
artifact, data, steps, out = Path(sys.argv[1]), load_file(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
inputs, outputs = (manifest["graphs"]["train"][key] for key in ("inputs", "outputs"))
options = ort.SessionOptions()
options.intra_op_num_threads = 1  # so that sums have the same order, and weights the same bits, on any number of cores
session = ort.InferenceSession(artifact / "train.onnx", options, providers=["CPUExecutionProvider"])

state = load_file(artifact / "init.safetensors")
if "max_steps" in state:
    state["max_steps"] = np.array(steps, np.float32)
for buffer in manifest.get("packed", []):
    state[buffer["name"]] = np.concatenate([state.pop(part["name"]).ravel() for part in buffer["tensors"]])

for step in range(steps):
    rows = np.arange(step * manifest["batch_size"], (step + 1) * manifest["batch_size"]) % len(data["train.label"])
    batch = {x["name"]: data[f"train.{x['field']}"][rows].astype(x["dtype"]) for x in inputs if x["role"] == "batch"}
    feed = batch | {x["name"]: state[x["name"]] for x in inputs if x["role"] == "state"}
    results = dict(zip([y["name"] for y in outputs], session.run([y["name"] for y in outputs], feed), strict=True))
    state |= {y["feeds"]: results[y["name"]] for y in outputs if y["role"] == "next"}
    print(step + 1, {y["name"]: float(results[y["name"]]) for y in outputs if y["role"] == "metric"})

for buffer in manifest.get("packed", []):
    flat = state.pop(buffer["name"])
    for part in buffer["tensors"]:
        state[part["name"]] = flat[part["offset"] :][: np.prod(part["shape"], dtype=int)].reshape(part["shape"])
save_file(state, out)
