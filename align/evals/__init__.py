"""Which checkpoint is better, and how sure that is: answers, metrics, intervals, comparisons."""
