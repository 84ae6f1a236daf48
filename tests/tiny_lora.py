"""Tiny models with rank-1 LoRAs that do something, and their folders as PEFT saves them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from tiny import build

from steerkit.models.language_model import LanguageModel


def with_lora(architecture: str, folder: Path, *, seed: int = 0, **options: Any) -> LanguageModel:
    """A model with a LoRA on all of its projections, rank 1 if not told otherwise, which is saved to a folder, too."""
    from peft import LoraConfig, get_peft_model

    lm = build(architecture, seed)
    given = {"r": 1, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(lm.model, LoraConfig(**given)).eval()
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return LanguageModel(architecture, model, lm.tokenizer, adapter=True)
