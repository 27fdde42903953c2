"""Which checkpoint is better, and how sure that is: answers, metrics, intervals, comparisons."""

ENOUGH = 10
"""With fewer prompts no interval is wide enough to conclude anything from."""
LEVEL = 0.95
"""Of all intervals."""
WIN_RATE = "/win_rate"
"""What stands after the name of a reward or a judge where its win rate is meant."""
