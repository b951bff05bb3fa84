// Orders of the ops that the partitioner can take as they are; see `fixed_orders.py`.
#pragma once

#include "agent/tensor_graph.h"

namespace drlpp {

// [n] a topological order: of the ready ops always the one that adds the fewest live bytes, the first of equals.
Ints narrow_order(const TensorGraph& graph);

}  // namespace drlpp
