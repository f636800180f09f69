"""What a safetensors file says of itself: its header, and the tensors of all files together."""
