#include "cost/placed_stages.h"

namespace drlpp {

namespace {

void check_rounds(const PlacedStages& p) {
  check_offsets("round_off", p.round_off, p.num_stages(), size_of(p.round_slot));
  check_offsets("turn_off", p.turn_off, p.num_slots(), size_of(p.turn));
  check_length("slot_microbatches", size_of(p.slot_microbatches), p.num_slots());
  for (Int s = 0; s < p.num_stages(); ++s) {
    const View<const Int> slots(p.round_slot.data() + p.round_off[s], p.round(s));
    check_range("round_slot", slots, p.slot_off[s], p.slot_off[s + 1]);
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      if (p.turns(i) < 1) throw std::invalid_argument("turn_off: slot " + std::to_string(i) + " has no turn");
      check_range("turn", View<const Int>(p.turn.data() + p.turn_off[i], p.turns(i)), 0, p.round(s));
      check_range("slot_microbatches", View<const Int>(&p.slot_microbatches[i], 1), 0, p.num_microbatches + 1);
    }
  }
}

void check_stages(const PlacedStages& p) {
  const Int stages = p.num_stages(), slots = p.num_slots(), devices = p.num_devices();
  if (p.num_microbatches < 1) throw std::invalid_argument("num_microbatches must be at least 1");
  check_offsets("slot_off", p.slot_off, stages, slots);
  for (Int s = 0; s < stages; ++s) {
    if (p.replicas(s) < 1) throw std::invalid_argument("slot_off: stage " + std::to_string(s) + " has no slot");
  }
  check_range("slot_device", p.slot_device, 0, devices);
  check_rounds(p);
  check_length("members", size_of(p.members), devices);
  if (p.action_s.rows != NUM_ACTIONS) throw std::invalid_argument("action_s must have 4 rows");
  check_length("action_s", p.action_s.columns, slots);
  for (const auto* bytes : {&p.held_bytes, &p.again_bytes, &p.remade_bytes}) check_length("held_bytes", size_of(*bytes), stages);
  check_length("gradient_bytes", size_of(p.gradient_bytes), slots);
  for (const auto* of_device : {&p.resident_bytes, &p.memory_bytes, &p.optimizer_s}) {
    check_length("resident_bytes", size_of(*of_device), devices);
  }
}

void check_messages(const PlacedStages& p) {
  const Int stages = p.num_stages(), messages = p.num_messages();
  check_offsets("message_off", p.message_off, stages, messages);
  check_offsets("dst_off", p.dst_off, messages, size_of(p.dst));
  check_offsets("returns_off", p.returns_off, stages, size_of(p.returns));
  check_range("message_src", p.message_src, 0, stages);
  check_range("dst", p.dst, 0, stages);
  check_range("returns", p.returns, 0, messages);
  for (const auto* flags : {&p.message_backward, &p.message_grad}) check_length("message_grad", size_of(*flags), messages);
  for (const auto* reals : {&p.message_bytes, &p.message_s}) check_length("message_bytes", size_of(*reals), messages);
  for (const auto* inputs : {&p.forward_inputs, &p.backward_inputs}) check_length("forward_inputs", size_of(*inputs), stages);
}

void check_devices(const PlacedStages& p) {
  const Int devices = p.num_devices(), hosts = p.links.num_hosts();
  check_length("host", size_of(p.links.host), devices);
  check_range("host", p.links.host, 0, hosts);
  check_length("local", size_of(p.local), devices);
  check_range("local", p.local, 0, p.channel_width);
  check_length("site", size_of(p.links.site), devices);
  check_sites(p.links.sites, p.links.link_off, hosts, size_of(p.links.link_bandwidth));
  for (Int u = 0; u < devices; ++u) check_range("site", View(&p.links.site[u], 1), 0, p.links.sites[p.links.host[u]]);
  check_length("link_latency_s", size_of(p.links.link_latency_s), size_of(p.links.link_bandwidth));
  check_length("link_step_s", size_of(p.links.link_step_s), size_of(p.links.link_bandwidth));
  check_length("port_latency_s", size_of(p.links.port_latency_s), hosts);
}

void check_groups(const PlacedStages& p) {
  const Int groups = p.num_groups();
  check_length("group_pending", size_of(p.group_pending), groups);
  check_length("group_spans", size_of(p.group_spans), groups);
  check_offsets("group_off", p.group_off, groups, size_of(p.group_device));
  check_offsets("group_host_off", p.group_host_off, groups, size_of(p.group_host));
  check_offsets("stage_group_off", p.stage_group_off, p.num_stages(), size_of(p.stage_group));
  check_range("group_device", p.group_device, 0, p.num_devices());
  check_range("group_host", p.group_host, 0, p.links.num_hosts());
  check_range("stage_group", p.stage_group, 0, groups);
}

}  // namespace

void PlacedStages::check() const {
  check_stages(*this);
  check_messages(*this);
  check_devices(*this);
  check_groups(*this);
}

}  // namespace drlpp
