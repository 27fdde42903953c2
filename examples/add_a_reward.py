"""A reward of one's own: a function of a prompt and a reply. `own.yaml` uses it.

Its further arguments are options of the recipe, checked by their annotations: `{rule: on_topic, options: {least: 3}}`.
The same reward scores replies in `sample`, ranks them in `prefer`, and judges policies in `compare`.
"""

import re

from align.records import Prompt
from align.rewards.base import reward


@reward("on_topic")
def on_topic(prompt: Prompt, reply: str, least: int = 4) -> float:
    """The share of the question's longer words that the reply says again."""
    asked, said = (set(re.findall(rf"\w{{{least},}}", text.lower())) for text in (prompt.prompt[-1].content, reply))
    return len(asked & said) / max(len(asked), 1)
