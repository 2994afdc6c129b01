"""The edge model service: small fine-tuned models on ONNX Runtime, behind the Open Inference Protocol."""

import os

# Unless it is told before it is loaded, ONNX Runtime sends figures about models and machine to its vendor.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
