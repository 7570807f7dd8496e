"""From a Hugging Face text classifier to small, exported files: load, fine-tune, distil, prune, quantize, export."""
