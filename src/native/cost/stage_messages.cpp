#include "cost/stage_messages.h"

#include <algorithm>

namespace drlpp {

// In order of the first edge on which a value leaves.
void StageMessages::find_sent(const ProblemArrays& a, const AssignmentView& assignment) {
  sent_.clear();
  first_.assign(a.num_values(), -1);
  receivers_.assign(0, assignment.num_stages());
  for (Int e = 0; e < a.num_edges(); ++e) {
    const Int s = assignment.labels[a.edge_src[e]], t = assignment.labels[a.edge_dst[e]];
    if (s == t) continue;
    const Int v = a.edge_value[e];
    Int k = first_[v];
    while (k >= 0 && sent_[k].stage != s) k = sent_[k].following;
    if (k < 0) {
      k = receivers_.add_row();
      sent_.push_back({s, v, 0, 0.0, first_[v], 0});
      first_[v] = k;
    }
    sent_[k].grad |= a.edge_grad[e];
    sent_[k].given_s = a.edge_s[e];
    receivers_.insert(k, t);
  }
}

// By stage, receiving stages, backward phase first, gradient, timed.
void StageMessages::sort_sent(const ProblemArrays& a) {
  order_.resize(sent_.size());
  for (Int k = 0; k < size_of(sent_); ++k) {
    Sent& sent = sent_[k];
    const Int forward = 1 - a.value_backward[sent.value];
    sent.flags = 4 * forward + 2 * sent.grad + (sent.given_s >= 0.0 ? 1 : 0);
    order_[k] = k;
  }
  std::sort(order_.begin(), order_.end(), [this](Int i, Int j) {
    const Sent &x = sent_[i], &y = sent_[j];
    if (x.stage != y.stage) return x.stage < y.stage;
    if (!receivers_.equal(i, j)) return receivers_.lists_before(i, j);
    return x.flags != y.flags ? x.flags < y.flags : i < j;
  });
}

bool StageMessages::same_message(Int i, Int j) const {
  return sent_[i].stage == sent_[j].stage && sent_[i].flags == sent_[j].flags && receivers_.equal(i, j);
}

void StageMessages::open_message(const ProblemArrays& a, const Sent& sent, Int row, PlacedStages& out) {
  const Int backward = a.value_backward[sent.value], grad = sent.grad * (1 - backward);
  out.message_src.push_back(sent.stage);
  ++out.message_off[sent.stage + 1];
  out.message_backward.push_back(backward);
  out.message_grad.push_back(grad);
  out.message_bytes.push_back(0.0);
  out.message_s.push_back(sent.given_s >= 0.0 ? 0.0 : -1.0);
  (sent.given_s >= 0.0 ? timed_ : uses_links_) = true;
  Ints& inputs = backward ? out.backward_inputs : out.forward_inputs;
  receivers_.for_each(row, [&](Int t) {
    out.dst.push_back(t);
    out.returns_off[t + 1] += grad;
    ++inputs[t];
  });
  out.dst_off.push_back(size_of(out.dst));
}

// The messages whose gradient each stage contributes to.
void StageMessages::list_returns(PlacedStages& out) {
  const Int stages = size_of(out.message_off) - 1;
  for (Int s = 0; s < stages; ++s) {
    out.message_off[s + 1] += out.message_off[s];
    out.returns_off[s + 1] += out.returns_off[s];
  }
  fill_.assign(out.returns_off.begin(), out.returns_off.end());
  out.returns.resize(out.returns_off[stages]);
  for (Int k = 0; k < out.num_messages(); ++k) {
    if (!out.message_grad[k]) continue;
    for (Int j = out.dst_off[k]; j < out.dst_off[k + 1]; ++j) out.returns[fill_[out.dst[j]]++] = k;
  }
}

void StageMessages::find(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out) {
  const Int stages = assignment.num_stages();
  find_sent(a, assignment);
  sort_sent(a);
  for (Ints* list : {&out.message_src, &out.message_backward, &out.message_grad, &out.dst}) list->clear();
  out.message_bytes.clear();
  out.message_s.clear();
  out.message_off.assign(stages + 1, 0);
  out.returns_off.assign(stages + 1, 0);
  out.dst_off.assign(1, 0);
  out.forward_inputs.assign(stages, 0);
  out.backward_inputs.assign(stages, 0);
  timed_ = uses_links_ = false;
  for (Int i = 0; i < size_of(order_); ++i) {
    const Int k = order_[i];
    const Sent& sent = sent_[k];
    if (i == 0 || !same_message(k, order_[i - 1])) open_message(a, sent, k, out);
    out.message_bytes.back() += a.tensor_bytes[a.value_tensor[sent.value]];
    if (sent.given_s >= 0.0) out.message_s.back() += sent.given_s;
  }
  list_returns(out);
}

// Counts a tensor once in every stage that has it.
void StageMessages::add_tensor(const ProblemArrays& a, const AssignmentView& assignment, Int tensor) {
  const Int maker = a.tensor_maker[tensor];
  const auto hold = [&](Int s) {
    if (holder_[s] == tensor) return;
    holder_[s] = tensor;
    activation_[s] += held_[s][tensor];
  };
  for (Int r = a.saver_off[tensor]; r < a.saver_off[tensor + 1]; ++r) {
    const Int s = assignment.labels[a.saver[r]];
    if (maker < 0 || assignment.labels[maker] == s) hold(s);
  }
  const Int value = a.tensor_value[tensor];
  for (Int k = value >= 0 ? first_[value] : -1; k >= 0; k = sent_[k].following) {
    hold(sent_[k].stage);
    receivers_.for_each(k, [&](Int s) {
      hold(s);
      if (receiver_[s] == tensor) return;
      receiver_[s] = tensor;
      boundary_[s] += held_[s][tensor];
    });
  }
}

// Lists, as stage * num_tensors + tensor: what stages that compute blocks again keep, and what else their ops save.
void StageMessages::list_block_tensors(const ProblemArrays& a, const AssignmentView& assignment) {
  const Int tensors = a.num_tensors();
  stays_.clear();
  saved_.clear();
  for (Int t = 0; t < tensors; ++t) {
    const Int maker = a.tensor_maker[t], value = a.tensor_value[t];
    for (Int r = a.saver_off[t]; r < a.saver_off[t + 1]; ++r) {
      const Int s = assignment.labels[a.saver[r]], block = a.block[a.saver[r]];
      if (maker >= 0 && assignment.labels[maker] != s) continue;
      if (block < 0) stays_.push_back(s * tensors + t);
      saved_.push_back({s * tensors + t, std::max<Int>(0, maker >= 0 ? a.block[maker] : block)});
    }
    for (Int k = value >= 0 ? first_[value] : -1; k >= 0; k = sent_[k].following) {
      stays_.push_back(sent_[k].stage * tensors + t);
      receivers_.for_each(k, [&](Int s) { stays_.push_back(s * tensors + t); });
    }
  }
  for (Int e = 0; e < a.num_edges(); ++e) {
    const Int u = a.edge_src[e], v = a.edge_dst[e], s = assignment.labels[v];
    const bool enters = a.block[v] >= 0 && a.block[u] != a.block[v];
    if (enters && assignment.labels[u] == s) stays_.push_back(s * tensors + a.value_tensor[a.edge_value[e]]);
  }
  std::sort(stays_.begin(), stays_.end());
  stays_.erase(std::unique(stays_.begin(), stays_.end()), stays_.end());
  const auto key = [](const Saved& x, const Saved& y) { return x.key < y.key; };
  std::stable_sort(saved_.begin(), saved_.end(), key);
  const auto same = [](const Saved& x, const Saved& y) { return x.key == y.key; };
  saved_.erase(std::unique(saved_.begin(), saved_.end(), same), saved_.end());
}

// The bytes of these tensors by stage, and the most of the rest that one block brings back.
void StageMessages::measure_blocks(const ProblemArrays& a, const AssignmentView& assignment) {
  const Int tensors = a.num_tensors(), stages = assignment.num_stages();
  list_block_tensors(a, assignment);
  block_inputs_.assign(stages, 0.0);
  largest_block_.assign(stages, 0.0);
  for (Int key : stays_) block_inputs_[key / tensors] += held_[key / tensors][key % tensors];
  Int stage = -1;
  for (const Saved& saved : saved_) {
    if (std::binary_search(stays_.begin(), stays_.end(), saved.key)) continue;
    if (saved.key / tensors != stage) of_block_.assign(a.num_ops(), 0.0);
    stage = saved.key / tensors;
    of_block_[saved.block] += held_[stage][saved.key % tensors];
    largest_block_[stage] = std::max(largest_block_[stage], of_block_[saved.block]);
  }
}

void StageMessages::measure_activations(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out) {
  const Int stages = assignment.num_stages();
  activation_.assign(stages, 0.0);
  boundary_.assign(stages, 0.0);
  holder_.assign(stages, -1);
  receiver_.assign(stages, -1);
  assignment.stage_types(a, type_);
  held_.clear();
  for (Int k : type_) held_.push_back(a.held_bytes[k]);
  for (Int t = 0; t < a.num_tensors(); ++t) add_tensor(a, assignment, t);
  const auto& choices = assignment.recompute;
  if (std::find(choices.begin(), choices.end(), AGAIN_BLOCKS) != choices.end()) measure_blocks(a, assignment);
  for (Reals* bytes : {&out.held_bytes, &out.again_bytes, &out.remade_bytes}) bytes->resize(stages);
  for (Int s = 0; s < stages; ++s) {
    const Int choice = choices[s];
    out.held_bytes[s] = choice == AGAIN_BLOCKS ? block_inputs_[s] : choice ? boundary_[s] : activation_[s];
    out.remade_bytes[s] = activation_[s] - out.held_bytes[s];
    out.again_bytes[s] = choice == AGAIN_BLOCKS ? largest_block_[s] : out.remade_bytes[s];
  }
}

}  // namespace drlpp
