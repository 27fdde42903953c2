"""Models: policies, reward models, and what they compute. The door to transformers and peft."""
