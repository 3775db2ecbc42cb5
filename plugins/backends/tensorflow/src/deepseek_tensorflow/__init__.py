"""TensorFlow for DeepSeek."""
