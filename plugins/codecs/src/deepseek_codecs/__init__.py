"""Codecs for DeepSeek: photographs, text and tensor files in; named classes and vectors out."""
