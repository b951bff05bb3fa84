// The ops of a problem and the tensors between them; the fields of `Tables` in `agent/view/device_classes.py`.
#pragma once

#include "border/view.h"

namespace drlpp {

// n ops and Q tensors that cross an edge.
struct TensorGraph {
  Ints tensor_ptr, tensor_ops;     // [Q + 1], flat: ops that a tensor joins, its producer before the others
  Reals tensor_bytes;              // [Q]
  Ints op_tensor_ptr, op_tensors;  // [n + 1], flat: tensors that an op is joined to
  Ints succ_ptr, succ;             // [n + 1], flat: successors of each op

  Int num_ops() const { return size_of(succ_ptr) - 1; }
  Int num_tensors() const { return size_of(tensor_bytes); }
  Int num_ends(Int q) const { return tensor_ptr[q + 1] - tensor_ptr[q]; }
  View<const Int> ops_of(Int q) const { return cview(tensor_ops).part(tensor_ptr[q], tensor_ptr[q + 1]); }
  View<const Int> tensors_of(Int op) const { return cview(op_tensors).part(op_tensor_ptr[op], op_tensor_ptr[op + 1]); }
  View<const Int> successors(Int op) const { return cview(succ).part(succ_ptr[op], succ_ptr[op + 1]); }
  // The same graph with all arcs turned round.
  TensorGraph reversed() const;

  template <class Visitor>
  void visit(Visitor& field) {
    field("tensor_ptr", tensor_ptr);
    field("tensor_ops", tensor_ops);
    field("tensor_bytes", tensor_bytes);
    field("op_tensor_ptr", op_tensor_ptr);
    field("op_tensors", op_tensors);
    field("succ_ptr", succ_ptr);
    field("succ", succ);
  }

  // Throws std::invalid_argument where sizes or indices do not agree.
  void check() const;
};

}  // namespace drlpp
