"""What planners share: arrays of the graph, orders of devices and of operators."""
