"""Generators write replies: `base` says what one is, `hf` is a model in this process, `scripted` a test double."""
