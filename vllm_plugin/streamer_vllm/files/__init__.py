"""Finding the safetensors files of a model's weights, on disk or in an object store."""
