"""PyTorch for DeepSeek."""
