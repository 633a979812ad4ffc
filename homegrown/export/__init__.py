"""Models in the formats of other programs: Hugging Face, GGUF, ONNX, Ollama."""
