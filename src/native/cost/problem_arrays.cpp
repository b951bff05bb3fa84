#include "cost/problem_arrays.h"

#include "border/checks.h"

namespace drlpp {

namespace {

void check_graph(const ProblemArrays& a) {
  const Int edges = a.num_edges(), values = a.num_values(), tensors = a.num_tensors();
  check_length("block", size_of(a.block), a.num_ops());
  check_range("block", a.block, -1, a.num_ops());
  check_length("edge_dst", size_of(a.edge_dst), edges);
  check_length("edge_value", size_of(a.edge_value), edges);
  check_length("edge_grad", size_of(a.edge_grad), edges);
  check_length("edge_s", size_of(a.edge_s), edges);
  check_range("edge_src", a.edge_src, 0, a.num_ops());
  check_range("edge_dst", a.edge_dst, 0, a.num_ops());
  check_range("edge_value", a.edge_value, 0, values);
  check_length("value_backward", size_of(a.value_backward), values);
  check_range("value_tensor", a.value_tensor, 0, tensors);
  check_length("held_bytes", a.held_bytes.rows, a.num_types());
  check_length("held_bytes", a.held_bytes.columns, tensors);
  check_length("trained_bytes", a.trained_bytes.rows, a.num_types());
  check_length("fixed_bytes", a.fixed_bytes.rows, a.num_types());
  check_length("fixed_bytes", a.fixed_bytes.columns, a.num_params());
  check_length("tensor_value", size_of(a.tensor_value), tensors);
  check_range("tensor_value", a.tensor_value, -1, values);
  check_length("tensor_maker", size_of(a.tensor_maker), tensors);
  check_range("tensor_maker", a.tensor_maker, -1, a.num_ops());
  check_offsets("saver_off", a.saver_off, tensors, size_of(a.saver));
  check_range("saver", a.saver, 0, a.num_ops());
  check_offsets("reader_off", a.reader_off, a.num_params(), size_of(a.reader));
  check_range("reader", a.reader, 0, a.num_ops());
}

void check_cluster(const ProblemArrays& a) {
  const Int devices = a.num_devices(), hosts = a.num_hosts();
  check_range("device_type", a.device_type, 0, a.num_types());
  check_length("device_host", size_of(a.device_host), devices);
  check_range("device_host", a.device_host, 0, hosts);
  check_length("memory_bytes", size_of(a.memory_bytes), devices);
  check_length("members", size_of(a.members), devices);
  check_length("optimizer_s", size_of(a.optimizer_s), devices);
  check_length("device_site", size_of(a.device_site), devices);
  check_sites(a.sites, a.link_off, hosts, size_of(a.link_bandwidth));
  for (Int d = 0; d < devices; ++d) check_range("device_site", View(&a.device_site[d], 1), 0, a.sites[a.device_host[d]]);
  check_length("link_latency_s", size_of(a.link_latency_s), size_of(a.link_bandwidth));
  check_length("link_step_s", size_of(a.link_step_s), size_of(a.link_bandwidth));
  check_length("port_latency_s", size_of(a.port_latency_s), hosts);
}

}  // namespace

void ProblemArrays::check() const {
  if (num_microbatches < 1) throw std::invalid_argument("num_microbatches must be at least 1");
  for (const Matrix* seconds : {&input_grad_s, &weight_grad_s}) {
    check_length("input_grad_s", seconds->rows, num_types());
    check_length("input_grad_s", seconds->columns, num_ops());
  }
  check_length("besides_s", size_of(besides_s), num_types());
  check_graph(*this);
  check_cluster(*this);
}

void PackedAssignments::check(const ProblemArrays& problem) const {
  check_length("labels", labels.columns, problem.num_ops());
  check_offsets("stage_off", stage_off, size(), replicas.size());
  check_offsets("slot_off", slot_off, size(), devices.size());
  check_length("recompute", recompute.size(), replicas.size());
  check_range("recompute", recompute, KEEP_ALL, AGAIN_BLOCKS + 1);
  check_range("devices", devices, 0, problem.num_devices());
  if (shares.size()) check_length("shares", shares.size(), devices.size());
  check_range("shares", shares, 1, LARGEST_SHARE + 1);
  for (Int b = 0; b < size(); ++b) {
    Int slots = 0;
    for (Int s = stage_off[b]; s < stage_off[b + 1]; ++s) {
      if (replicas[s] < 1) throw std::invalid_argument("replicas must be at least 1");
      slots += replicas[s];
    }
    check_length("slot_off", slot_off[b + 1] - slot_off[b], slots);
  }
}

}  // namespace drlpp
