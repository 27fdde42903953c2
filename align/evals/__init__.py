"""Which checkpoint is better, and how sure that is: answers, metrics, intervals, comparisons."""

ENOUGH = 10
"""With fewer prompts no interval is wide enough to conclude anything from."""
