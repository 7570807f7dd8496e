"""From a Hugging Face text classifier to small, exported files: load, fine-tune, quantize, export."""

__version__ = "0.1.0"
