"""Use an exported model without netc: `python classify.py MODEL IMAGES.npy`."""

import sys

import numpy as np
import onnxruntime

model, images = sys.argv[1:3]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(scores,) = session.run(None, {"image": np.load(images)})
probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
probabilities /= probabilities.sum(axis=1, keepdims=True)
for row in probabilities:
    print(row.argmax(), f"{row.max():.3f}")
