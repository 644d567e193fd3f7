"""Classify images with an exported model, without netc: `python classify.py MODEL PNG...`."""

import json
import sys

import numpy as np
import onnxruntime
from read_png import read_png

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
said = session.get_modelmeta().custom_metadata_map
(low, high), names = json.loads(said["netc.value_range"]), json.loads(said["netc.classes"])
for path in sys.argv[2:]:
    pixels = read_png(path, channels=session.get_inputs()[0].shape[1])
    image = pixels[np.newaxis] / 255 * (high - low) + low
    (probabilities,) = session.run(None, {"image": image.astype(np.float32)})
    print(path, names[probabilities.argmax()], f"{probabilities.max():.3f}")
