"""Other people's measurements of GPUs, as cases that the planner's own cost model can predict."""
