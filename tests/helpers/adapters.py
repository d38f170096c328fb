"""Models with adapters that are not at their start."""

import torch
from transformers import PreTrainedModel


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model with an adapter that is not at its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model
