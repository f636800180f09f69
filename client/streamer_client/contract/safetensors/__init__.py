"""The contents that safetensors files declare: their headers, and the tensors of all together."""
