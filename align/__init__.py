"""align: recipes that take a language model through its alignment, and say how sure the result is."""
