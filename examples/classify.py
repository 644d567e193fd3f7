"""Classify images with an exported model, without netc: `python classify.py MODEL PNG...`."""

import json
import sys

import numpy as np
import onnxruntime
from read_png import read_png

if len(sys.argv) < 3:
    sys.exit("usage: python classify.py MODEL PNG...")
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
said = session.get_modelmeta().custom_metadata_map
outputs = json.loads(said["netc.interface"])["outputs"]
output = next((each for each in outputs if "label" in each), outputs[0])
(low, high), names = json.loads(said["netc.value_range"]), json.loads(said["netc.classes"])
if "activation" in output or output["shape"][1:] != [len(names)]:
    sys.exit(f"{sys.argv[1]} gives no probabilities of classes; export a classifier with --softmax")
_, channels, *size = session.get_inputs()[0].shape
for path in sys.argv[2:]:
    pixels = read_png(path, channels)
    if list(pixels.shape[1:]) != size:
        sys.exit(f"{path} has {pixels.shape[2]} x {pixels.shape[1]} pixels, the model takes {size[1]} x {size[0]}")
    image = pixels[np.newaxis] / 255 * (high - low) + low
    (probabilities,) = session.run([output["name"]], {"image": image.astype(np.float32)})
    print(path, names[probabilities.argmax()], f"{probabilities.max():.3f}")
