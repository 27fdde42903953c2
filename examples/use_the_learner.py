"""Train without a recipe: text to trees, a model from scratch, and every optimizer step in plain sight.

Run it with `python examples/use_the_learner.py`.
"""

from pathlib import Path

from align.config import Data, Optim
from align.data import load
from align.data.tokens import trees
from align.machine import Machine
from align.models.logprobs import LanguageModel
from align.models.policy import from_scratch
from align.models.tokenizers import train_tokenizer
from align.train.fit import rows_of
from align.train.learner import Learner, accelerator
from align.train.objectives import next_token

STEPS, SIZES = 60, {
    "architecture": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip


def main() -> list[float]:
    """Returns the loss of each step, in nats a token."""
    texts = load(Data(path="toy", options={"kind": "text", "rows": 1000}), seed=0, base=Path())
    tokenizer = train_tokenizer([record.text for record in texts], "words")
    policy = from_scratch(SIZES, tokenizer, seed=0)
    rows, account = trees(texts, policy.chat, max_length=64)
    print(account)

    machine, optim = Machine(device="cpu"), Optim(batch_size=32)
    learner = Learner(
        LanguageModel(policy.model), optim, lr=5e-3, steps=STEPS,
        accelerator=accelerator(machine), machine=machine, pad=policy.contract.pad,
    )  # fmt: skip
    losses = []
    for step in range(STEPS):
        batch = [rows[i] for i in rows_of(step, len(rows), optim.batch_size, seed=0)]
        metrics = learner.update(next_token, batch)  # an objective of your own goes here
        losses.append(metrics["loss"])
        print(f"step {step + 1}: loss {metrics['loss']:.3f}, gradient norm {metrics['grad_norm']:.2f}")
    return losses


if __name__ == "__main__":
    main()
