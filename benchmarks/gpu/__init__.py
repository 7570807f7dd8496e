"""The whole check of a GPU, in at most 10 minutes: ``python -m benchmarks.gpu``. docs/gpu.md says how."""
