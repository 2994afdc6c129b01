"""The edge model service: small fine-tuned models on ONNX Runtime, behind the Open Inference Protocol."""
