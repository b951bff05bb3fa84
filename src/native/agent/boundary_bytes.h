// What enters and what leaves a stretch of an order of the ops; see `boundary_bytes.py`.
#pragma once

#include "agent/tensor_graph.h"

namespace drlpp {

// For one order: bytes at [i, j] of the stretch of the ops at positions i to j - 1.
//
// Args:
//   order: [n].
//   into: [n + 1, n + 1] zeros; becomes what the stretch reads that is made before it.
//   out: [n + 1, n + 1] zeros; becomes what it makes that is read after it.
void boundary_bytes(const TensorGraph& graph, View<const Int> order, Table<double> into, Table<double> out);

}  // namespace drlpp
