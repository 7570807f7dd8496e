"""Triton's Python backend within Triton's own process, in place of the stub process that Triton ships it with.

A text costs a small model about a millisecond; to hand it to another process and its scores back costs some tenths of
one (``benchmarks/serving_choices.py``), and memory, shared memory and files in /tmp besides. Against that, a model that
crashes takes Triton with it, and all models share one Python and its lock; each can have a process of its own instead
(``Server(isolated=True)``, ``bantam serve --isolated``). The published models are the same for both.
"""
