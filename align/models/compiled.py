"""Layers compiled one by one, in place: names in state dicts stay, and one graph serves all layers."""

from __future__ import annotations

from typing import Any


def compile_layers(model: Any, backend: str = "inductor") -> int:
    """Compiles each layer of a transformers model for rows of any shape; returns how many there are."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # beneath adapters
    layers = [module for module in base.modules() if type(module).__name__ in (base._no_split_modules or ())]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)
