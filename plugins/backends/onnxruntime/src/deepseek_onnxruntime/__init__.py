"""ONNX Runtime for DeepSeek."""
