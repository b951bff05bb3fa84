"""Another plan in the middle of a training: measuring, watching for changes, deciding, moving."""
