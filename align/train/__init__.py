"""Training: micro-batches, the learner, the loop. The door to accelerate."""
