"""Where models come from: Python files, timm, transformers."""
