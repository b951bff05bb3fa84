"""The planner `drl`: samples, fine-tuning and refinement within a budget."""
