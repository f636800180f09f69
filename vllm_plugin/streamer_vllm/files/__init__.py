"""Which safetensors files a model's weights are in, on disk or in an object store."""
