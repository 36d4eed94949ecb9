"""Kickstand's functional core: the same rules in every Lambda function, in training and on a laptop."""

import os

__version__ = "0.2.0"

# Otherwise ONNX Runtime sends Microsoft the model's name and shape, errors and a machine identifier. It is read
# once, as onnxruntime is imported: https://github.com/microsoft/onnxruntime/pull/27379
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
