// A planning problem, and assignments of it, as arrays: `cost.ProblemArrays` and `cost.PackedAssignments` in Python,
// where the fields are described.
#pragma once

#include "border/view.h"
#include "cost/links.h"

namespace drlpp {

// What a stage computes again before its backward pass: `graph.blocks.Recompute`.
enum Recompute : Int { KEEP_ALL, AGAIN_STAGE, AGAIN_BLOCKS };

// Whether an op of a block (-1: of none) runs its forward pass again.
inline bool runs_again(Int recompute, Int block) {
  return recompute == AGAIN_STAGE || (recompute == AGAIN_BLOCKS && block >= 0);
}

// N ops, E edges, V values (a tensor in a phase), T tensors, P parameters and buffers, D devices.
struct ProblemArrays {
  Int num_microbatches = 0;
  Matrix forward_s, input_grad_s, weight_grad_s;  // [num_device_types, N]
  Reals besides_s;                                // [num_device_types] of a forward or backward pass, besides its ops
  Ints block;
  Ints edge_src, edge_dst, edge_value, edge_grad;
  Reals edge_s;
  Ints value_tensor, value_backward;
  Reals tensor_bytes;  // of messages
  Matrix held_bytes;   // [num_device_types, T]
  Ints tensor_value, tensor_maker, saver_off, saver;
  Matrix trained_bytes, fixed_bytes;  // [num_device_types, P]
  Ints reader_off, reader;
  double resident_factor = 0.0, gradient_factor = 0.0, divided_states = 0.0;
  Int zero1 = 0;
  Ints device_type, device_host, device_site;
  Reals memory_bytes;
  Ints members;
  Reals optimizer_s;
  Ints sites, link_off;
  Reals link_bandwidth, link_latency_s, link_step_s, port_bandwidth, port_latency_s;

  Int num_ops() const { return forward_s.columns; }
  Int num_types() const { return forward_s.rows; }
  Int num_edges() const { return size_of(edge_src); }
  Int num_values() const { return size_of(value_tensor); }
  Int num_tensors() const { return size_of(tensor_bytes); }
  Int num_params() const { return trained_bytes.columns; }
  Int num_devices() const { return size_of(device_type); }
  Int num_hosts() const { return size_of(port_bandwidth); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("num_microbatches", num_microbatches);
    field("forward_s", forward_s);
    field("input_grad_s", input_grad_s);
    field("weight_grad_s", weight_grad_s);
    field("besides_s", besides_s);
    field("block", block);
    field("edge_src", edge_src);
    field("edge_dst", edge_dst);
    field("edge_value", edge_value);
    field("edge_grad", edge_grad);
    field("edge_s", edge_s);
    field("value_tensor", value_tensor);
    field("value_backward", value_backward);
    field("tensor_bytes", tensor_bytes);
    field("held_bytes", held_bytes);
    field("tensor_value", tensor_value);
    field("tensor_maker", tensor_maker);
    field("saver_off", saver_off);
    field("saver", saver);
    field("trained_bytes", trained_bytes);
    field("fixed_bytes", fixed_bytes);
    field("reader_off", reader_off);
    field("reader", reader);
    field("resident_factor", resident_factor);
    field("gradient_factor", gradient_factor);
    field("divided_states", divided_states);
    field("zero1", zero1);
    field("device_type", device_type);
    field("device_host", device_host);
    field("device_site", device_site);
    field("memory_bytes", memory_bytes);
    field("members", members);
    field("optimizer_s", optimizer_s);
    field("sites", sites);
    field("link_off", link_off);
    field("link_bandwidth", link_bandwidth);
    field("link_latency_s", link_latency_s);
    field("link_step_s", link_step_s);
    field("port_bandwidth", port_bandwidth);
    field("port_latency_s", port_latency_s);
  }

  // Throws std::invalid_argument where sizes or indices do not agree.
  void check() const;
};

// The largest share of a replica: `plan.shares.LONGEST_ROUND`.
constexpr Int LARGEST_SHARE = 10'000;

// One assignment: [N] stage of each op; [S] replicas and recomputation of each stage; [L] devices of the slots, and their
// shares of the micro-batches (none if all are equal).
struct AssignmentView {
  View<const Int> labels, replicas, recompute, devices, shares;

  Int num_stages() const { return replicas.size(); }

  // The device type of the first replica of each stage: what a stage holds is the same on all of them.
  void stage_types(const ProblemArrays& a, Ints& types) const {
    types.clear();
    for (Int s = 0, slot = 0; s < num_stages(); slot += replicas[s++]) types.push_back(a.device_type[devices[slot]]);
  }
};

// B assignments; assignment b has the stages stage_off[b] .. stage_off[b + 1], and slots likewise.
struct PackedAssignments {
  Table<const Int> labels;  // [B, N]
  View<const Int> stage_off, slot_off, replicas, recompute, devices, shares;

  Int size() const { return labels.rows; }

  AssignmentView operator[](Int b) const {
    const Int first = stage_off[b], last = stage_off[b + 1];
    return {labels.row(b), replicas.part(first, last), recompute.part(first, last),
            devices.part(slot_off[b], slot_off[b + 1]),
            shares.size() ? shares.part(slot_off[b], slot_off[b + 1]) : shares};
  }

  template <class Visitor>
  void visit(Visitor& field) {
    field("labels", labels);
    field("stage_off", stage_off);
    field("slot_off", slot_off);
    field("replicas", replicas);
    field("recompute", recompute);
    field("devices", devices);
    field("shares", shares);
  }

  // Throws std::invalid_argument where sizes or indices do not agree, or do not fit the problem.
  void check(const ProblemArrays& problem) const;
};

}  // namespace drlpp
