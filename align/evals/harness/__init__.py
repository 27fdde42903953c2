"""lm-evaluation-harness as a source of metrics: the one door to it.

A policy is asked as it is used. Its own chat template writes the questions, the examples among them as turns, its own
stop ids end what it writes, and an answer whose likelihood is wanted is spelled as the template spells a reply. A
policy whose template is `raw` is asked as lm_eval asks base models: by one text that goes on.

Questions are never cut. lm_eval cuts the beginning off what is too long for a model, template and all; here such a
document has no value, and the comparison is on those that both policies could read.

Metrics that are no means over documents, such as corpus BLEU, have no value a document, so nothing can be said about
how sure they are; they are left out, with a note.
"""
