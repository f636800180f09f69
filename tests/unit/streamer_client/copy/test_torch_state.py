"""Tensors that are made for a loader may be used in inference_mode and outside of it."""

from __future__ import annotations

import torch

from streamer_client.copy.torch_state import current_stream_number, outside_inference


def test_tensors_are_ordinary_ones_in_inference_mode_too() -> None:
    with outside_inference():
        assert not torch.empty(1).is_inference()
    with torch.inference_mode():
        assert torch.empty(1).is_inference()
        with outside_inference():
            assert not torch.empty(1).is_inference()


def test_only_gpus_have_streams() -> None:
    assert current_stream_number(torch.device("cpu")) is None
    assert current_stream_number(torch.device("meta")) is None
