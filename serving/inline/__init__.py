"""Triton's Python backend within Triton's own process, in place of the stub process that Triton ships it with.

A text costs the model about a millisecond; to hand it to another process and its scores back costs a third of one
(``benchmarks/serving_choices.py``). The published models are the same for both: ``model.py`` cannot tell.
"""
