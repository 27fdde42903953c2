"""Generators write replies: `base` says what one is, `hf` is a model in this process, `endpoint` one behind a server,
`scripted` a test double."""
