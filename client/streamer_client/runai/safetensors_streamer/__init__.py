"""Streaming safetensors files, under the names of Run:ai's modules."""
