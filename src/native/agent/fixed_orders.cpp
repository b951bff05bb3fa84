#include "agent/fixed_orders.h"

#include <limits>

namespace drlpp {

Ints narrow_order(const TensorGraph& graph) {
  const Int n = graph.num_ops();
  Ints waiting(n, 0);  // predecessors that are not done
  for (const Int op : graph.succ) ++waiting[op];
  Ints pending(graph.num_tensors());  // ops of each tensor that are not done
  for (Int q = 0; q < graph.num_tensors(); ++q) pending[q] = graph.num_ends(q);
  Ints ready, order;
  for (Int op = 0; op < n; ++op) {
    if (waiting[op] == 0) ready.push_back(op);
  }
  for (Int i = 0; i < n; ++i) {
    std::size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t k = 0; k < ready.size(); ++k) {
      double change = 0.0;
      for (const Int q : graph.tensors_of(ready[k])) {
        if (pending[q] == graph.num_ends(q)) {
          change += graph.tensor_bytes[q];
        } else if (pending[q] == 1) {
          change -= graph.tensor_bytes[q];
        }
      }
      if (change < least) {
        best = k;
        least = change;
      }
    }
    const Int op = ready[best];
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(best));
    order.push_back(op);
    for (const Int q : graph.tensors_of(op)) --pending[q];
    for (const Int after : graph.successors(op)) {
      if (--waiting[after] == 0) ready.push_back(after);
    }
  }
  return order;
}

}  // namespace drlpp
