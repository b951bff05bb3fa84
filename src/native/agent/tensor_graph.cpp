#include "agent/tensor_graph.h"

#include <numeric>

#include "border/checks.h"

namespace drlpp {

void TensorGraph::check() const {
  check_offsets("tensor_ptr", tensor_ptr, num_tensors(), size_of(tensor_ops));
  check_offsets("op_tensor_ptr", op_tensor_ptr, num_ops(), size_of(op_tensors));
  check_offsets("succ_ptr", succ_ptr, num_ops(), size_of(succ));
  check_range("tensor_ops", tensor_ops, 0, num_ops());
  check_range("op_tensors", op_tensors, 0, num_tensors());
  check_range("succ", succ, 0, num_ops());
}

TensorGraph TensorGraph::reversed() const {
  TensorGraph out = *this;
  out.succ_ptr.assign(num_ops() + 1, 0);
  for (const Int op : succ) ++out.succ_ptr[op + 1];
  std::partial_sum(out.succ_ptr.begin(), out.succ_ptr.end(), out.succ_ptr.begin());
  Ints end(out.succ_ptr.begin(), out.succ_ptr.end() - 1);
  for (Int op = 0; op < num_ops(); ++op) {
    for (const Int after : successors(op)) out.succ[end[after]++] = op;
  }
  return out;
}

}  // namespace drlpp
