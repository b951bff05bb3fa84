#include "cost/incremental_loads.h"

#include <algorithm>
#include <stdexcept>

#include "border/hash_table.h"
#include "cost/collectives.h"
#include "cost/device_loads.h"
#include "cost/placement.h"

namespace drlpp {

namespace {

// What is less of the parameters of a stage is a rounding error: sizes are whole bytes.
constexpr double LEAST_BYTES = 1e-3;

// A random word for each number (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
std::uint64_t mixed(std::uint64_t number) {
  std::uint64_t z = (number + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Groups items by owner: `off[o] .. off[o + 1]` are the items of owner o.
template <class Item>
void by_owner(const std::vector<std::pair<Int, Item>>& pairs, Int owners, Ints& off, std::vector<Item>& items) {
  off.assign(owners + 1, 0);
  for (const auto& pair : pairs) ++off[pair.first + 1];
  for (Int o = 0; o < owners; ++o) off[o + 1] += off[o];
  Ints fill(off);
  items.resize(pairs.size());
  for (const auto& pair : pairs) items[fill[pair.first]++] = pair.second;
}

}  // namespace

IncrementalLoads::IncrementalLoads(const ProblemArrays& a, const AssignmentView& assignment)
    : labels_(assignment.labels.begin(), assignment.labels.end()), trained_bytes_(a.trained_bytes) {
  if (!Placement().place(a, assignment, placed_)) throw std::invalid_argument("the partition is not legal");
  const Int stages = placed_.num_stages(), devices = placed_.num_devices();
  list_values(a);
  list_params(a);
  assignment.stage_types(a, type_);
  op_s_.assign(num_ops(), placed_.num_slots(), 0.0);
  besides_s_.assign(placed_.num_slots(), 0.0);
  for (Int s = 0; s < stages; ++s) {
    for (Int i = placed_.slot_off[s]; i < placed_.slot_off[s + 1]; ++i) {
      const Int k = a.device_type[assignment.devices[i]];
      const double part = static_cast<double>(placed_.turns(i)) / static_cast<double>(placed_.round(s));
      besides_s_[i] = 2.0 * a.besides_s[k] * part;
      for (Int o = 0; o < num_ops(); ++o) {
        const double once = a.forward_s[k][o] + a.input_grad_s[k][o] + a.weight_grad_s[k][o];
        const double total = once + (runs_again(assignment.recompute[s], a.block[o]) ? a.forward_s[k][o] : 0.0);
        op_s_[o][i] = total * static_cast<double>(placed_.turns(i)) / static_cast<double>(placed_.round(s));
      }
    }
  }
  keys_.resize(table_slots(8 * size_of(values_) + 64));
  counts_.resize(keys_.size());
  for (Int s = 0; s < stages + 4; ++s) mark_.push_back(mixed(static_cast<std::uint64_t>(s)) | 1);
  own_bytes_.resize(stages);
  users_.resize(values_.size() * stages);
  grad_users_.resize(values_.size() * stages);
  readers_.resize(trained_bytes_.columns * stages);
  load_.resize(devices);
  tied_load_.resize(devices);
  device_stamp_.assign(devices, 0);
  refresh();
}

void IncrementalLoads::list_values(const ProblemArrays& a) {
  values_.resize(a.num_values());
  for (Int e = 0; e < a.num_edges(); ++e) {
    Value& value = values_[a.edge_value[e]];
    const bool other = value.source != a.edge_src[e] || value.given_s != a.edge_s[e];
    if (value.source >= 0 && other) throw std::invalid_argument("a value has several producers or transfer times");
    value = {a.edge_src[e], 0.0, a.edge_s[e], false};
  }
  std::vector<std::pair<Int, Int>> outs;
  std::vector<std::pair<Int, Use>> ins;
  for (Int v = 0; v < a.num_values(); ++v) {
    values_[v].bytes = a.tensor_bytes[a.value_tensor[v]];
    values_[v].backward = a.value_backward[v] != 0;
    outs.push_back({values_[v].source, v});
  }
  for (Int e = 0; e < a.num_edges(); ++e) ins.push_back({a.edge_dst[e], {a.edge_value[e], a.edge_grad[e]}});
  by_owner(outs, num_ops(), out_off_, out_value_);
  by_owner(ins, num_ops(), in_off_, in_);
}

void IncrementalLoads::list_params(const ProblemArrays& a) {
  std::vector<std::pair<Int, Int>> pairs;
  is_shared_.assign(a.num_params(), false);
  for (Int p = 0; p < a.num_params(); ++p) {
    double most = 0.0;
    for (Int k = 0; k < a.num_types(); ++k) most = std::max(most, a.trained_bytes[k][p]);
    if (most <= 0.0) continue;  // nothing is summed
    Ints readers(a.reader.begin() + a.reader_off[p], a.reader.begin() + a.reader_off[p + 1]);
    std::sort(readers.begin(), readers.end());
    readers.erase(std::unique(readers.begin(), readers.end()), readers.end());
    for (Int o : readers) pairs.push_back({o, p});
    is_shared_[p] = readers.size() > 1;
    if (is_shared_[p]) shared_.push_back(p);
  }
  by_owner(pairs, num_ops(), param_off_, param_);
}

void IncrementalLoads::refresh() {
  const Int stages = num_stages();
  for (Ints* counts : {&users_, &grad_users_, &readers_, &counts_}) std::fill(counts->begin(), counts->end(), 0);
  std::fill(load_.begin(), load_.end(), 0.0);
  for (Int i = 0; i < placed_.num_slots(); ++i) load_[placed_.slot_device[i]] += besides_s_[i];
  std::fill(own_bytes_.begin(), own_bytes_.end(), 0.0);
  std::fill(keys_.begin(), keys_.end(), 0);
  entries_ = moves_ = 0;
  for (Int o = 0; o < num_ops(); ++o) {
    const Int s = labels_[o];
    add_compute(o, s, 1.0);
    for (Int i = in_off_[o]; i < in_off_[o + 1]; ++i) {
      ++users_[in_[i].value * stages + s];
      grad_users_[in_[i].value * stages + s] += in_[i].grad;
    }
    for (Int i = param_off_[o]; i < param_off_[o + 1]; ++i) ++readers_[param_[i] * stages + s];
  }
  for (Int v = 0; v < size_of(values_); ++v) add_value(v, 1.0);
  for (Int p = 0; p < trained_bytes_.columns; ++p) {
    const Int s = only_reader(p);
    if (s >= 0) own_bytes_[s] += held(p, s);
  }
  for (Int s = 0; s < stages; ++s) reduce_own(s, 1.0);
  reduce_tied();
}

double IncrementalLoads::bottleneck_s() const {
  double most = 0.0;
  for (Int u = 0; u < size_of(load_); ++u) most = std::max(most, load_[u] + tied_load_[u]);
  return most;
}

// Adds the values that an op makes and reads.
void IncrementalLoads::add_values_of(Int op, double sign) {
  for (Int i = out_off_[op]; i < out_off_[op + 1]; ++i) add_value(out_value_[i], sign);
  for (Int i = in_off_[op]; i < in_off_[op + 1]; ++i) {
    if (is_first_use(op, i)) add_value(in_[i].value, sign);
  }
}

void IncrementalLoads::move(Int op, Int stage) {
  const Int old = labels_[op], stages = num_stages();
  if (old == stage) return;
  ++moves_;
  if (2 * entries_ > size_of(keys_)) {
    labels_[op] = stage;
    refresh();
    return;
  }
  add_values_of(op, -1.0);
  for (Int i = in_off_[op]; i < in_off_[op + 1]; ++i) {
    const Int row = in_[i].value * stages;
    --users_[row + old];
    ++users_[row + stage];
    grad_users_[row + old] -= in_[i].grad;
    grad_users_[row + stage] += in_[i].grad;
  }
  labels_[op] = stage;
  add_values_of(op, 1.0);
  add_compute(op, old, -1.0);
  add_compute(op, stage, 1.0);
  if (param_off_[op] < param_off_[op + 1]) move_parameters(op, old, stage);
}

double IncrementalLoads::cost_of_move(Int op, Int stage) {
  const Int old = labels_[op], moves = moves_;
  saved_ = load_;
  move(op, stage);
  const double cost = bottleneck_s();
  move(op, old);
  load_.swap(saved_);
  moves_ = moves;
  return cost;
}

// Whether the i-th consumed edge is the op's first of its value (an op may use a value twice).
bool IncrementalLoads::is_first_use(Int op, Int i) const {
  for (Int j = in_off_[op]; j < i; ++j) {
    if (in_[j].value == in_[i].value) return false;
  }
  return true;
}

void IncrementalLoads::add_compute(Int op, Int stage, double sign) {
  const double* seconds = op_s_[op];
  for (Int i = placed_.slot_off[stage]; i < placed_.slot_off[stage + 1]; ++i) {
    load_[placed_.slot_device[i]] += sign * seconds[i];
  }
}

// The place of a message in the hash table (a new one if it is not there).
Int IncrementalLoads::message_entry(std::uint64_t key) {
  const Int slot = find_slot(size_of(keys_), key, [&](Int i) { return keys_[i] == key || keys_[i] == 0; });
  if (keys_[slot] == 0) ++entries_;
  keys_[slot] = key;
  return slot;
}

// Adds (sign 1) or takes away (-1) the transfers of a value.
void IncrementalLoads::add_value(Int v, double sign) {
  const Value& value = values_[v];
  const Int stages = num_stages(), s = labels_[value.source];
  const Int* users = users_.data() + v * stages;
  const Int* grad_users = grad_users_.data() + v * stages;
  bool grad = false;
  std::uint64_t key = 0;
  receivers_.clear();
  for (Int t = 0; t < stages; ++t) {
    if (users[t] == 0 || t == s) continue;
    receivers_.push_back(t);
    grad = grad || grad_users[t] > 0;
    key ^= mark_[t];
  }
  if (receivers_.empty()) return;
  if (grad) key ^= mark_[stages];
  if (value.backward) key ^= mark_[stages + 1];
  if (value.given_s >= 0.0) key ^= mark_[stages + 2];
  key = (key ^ (static_cast<std::uint64_t>(s) * mark_[stages + 3])) * 0x9E3779B97F4A7C15u;
  key = (key ^ (key >> 31)) | 1;
  Int& count = counts_[message_entry(key)];
  if (sign < 0.0) --count;
  const bool alone = count == 0;
  if (sign > 0.0) ++count;
  add_message(s, grad && !value.backward, value, alone, sign);
}

// Adds the load of moving a value to `receivers_`, averaged over a period.
void IncrementalLoads::add_message(Int stage, bool grad, const Value& value, bool with_latency, double sign) {
  Int period = placed_.round(stage);
  for (Int t : receivers_) period = common_period(period, placed_.round(t));
  const double share = sign / static_cast<double>(period);
  for (Int m = 0; m < period; ++m) {
    const Int u = placed_.device(stage, m);
    device_stamp_[u] = ++stamp_;
    bool sent = false;
    for (Int t : receivers_) {
      const Int q = placed_.device(t, m);
      if (device_stamp_[q] == stamp_) continue;
      device_stamp_[q] = stamp_;
      double seconds = value.given_s;
      if (value.given_s < 0.0) {
        const Path path = placed_.links.path(u, q);
        seconds = with_latency ? transfer_s(path, value.bytes) : wire_s(path, value.bytes);
      }
      seconds *= share;
      load_[q] += seconds;
      if (value.given_s < 0.0 || !sent) {
        load_[u] += seconds;
        sent = true;
      }
      if (grad) {
        load_[q] += seconds;
        load_[u] += seconds;
      }
    }
  }
}

void IncrementalLoads::move_parameters(Int op, Int old, Int stage) {
  const Int stages = num_stages();
  reduce_own(old, -1.0);
  reduce_own(stage, -1.0);
  bool tied = false;
  for (Int i = param_off_[op]; i < param_off_[op + 1]; ++i) {
    const Int p = param_[i];
    const Int before = only_reader(p);
    --readers_[p * stages + old];
    ++readers_[p * stages + stage];
    const Int after = only_reader(p);
    tied = tied || is_shared_[p];
    for (const auto& [s, sign] : {std::pair{before, -1.0}, std::pair{after, 1.0}}) {
      if (s < 0) continue;
      const bool elsewhere = s != old && s != stage;
      if (elsewhere) reduce_own(s, -1.0);
      own_bytes_[s] += sign * held(p, s);
      if (elsewhere) reduce_own(s, 1.0);
    }
  }
  for (Int s : {old, stage}) {
    if (own_bytes_[s] < LEAST_BYTES) own_bytes_[s] = 0.0;
    reduce_own(s, 1.0);
  }
  if (tied) reduce_tied();
}

// The stage that reads a parameter, or -1 if several do.
Int IncrementalLoads::only_reader(Int param) const {
  Int only = -1;
  for (Int s = 0; s < num_stages(); ++s) {
    if (readers_[param * num_stages() + s] == 0) continue;
    if (only >= 0) return -1;
    only = s;
  }
  return only;
}

// Adds the all-reduce of a stage's own parameters.
void IncrementalLoads::reduce_own(Int stage, double sign) {
  if (placed_.replicas(stage) < 2 || own_bytes_[stage] <= 0.0) return;
  ++stamp_;
  for (Int i = placed_.slot_off[stage]; i < placed_.slot_off[stage + 1]; ++i) {
    device_stamp_[placed_.slot_device[i]] = stamp_;
  }
  reduce(own_bytes_[stage], sign, load_);
}

bool IncrementalLoads::same_readers(Int p, Int q) const {
  const Int stages = num_stages();
  for (Int s = 0; s < stages; ++s) {
    if ((readers_[p * stages + s] > 0) != (readers_[q * stages + s] > 0)) return false;
  }
  return true;
}

// Sums the all-reduces of parameters that several stages read: one for all that the same stages read.
void IncrementalLoads::reduce_tied() {
  const Int stages = num_stages();
  std::fill(tied_load_.begin(), tied_load_.end(), 0.0);
  for (Int i = 0; i < size_of(shared_); ++i) {
    const Int p = shared_[i];
    if (only_reader(p) >= 0) continue;
    together_.clear();
    for (Int q : shared_) {
      if (same_readers(p, q)) together_.push_back(q);
    }
    if (together_.front() != p) continue;
    ++stamp_;
    double most = 0.0;
    for (Int s = 0; s < stages; ++s) {
      if (readers_[p * stages + s] == 0) continue;
      double size = 0.0;
      for (Int q : together_) size += held(q, s);
      most = std::max(most, size);
      for (Int r = placed_.slot_off[s]; r < placed_.slot_off[s + 1]; ++r) {
        device_stamp_[placed_.slot_device[r]] = stamp_;
      }
    }
    if (most > 0.0) reduce(most, 1.0, tied_load_);
  }
}

// Adds the share per micro-batch of an all-reduce over the devices with the current stamp.
void IncrementalLoads::reduce(double num_bytes, double sign, Reals& load) {
  members_.clear();
  for (Int u = 0; u < size_of(load); ++u) {
    if (device_stamp_[u] == stamp_) members_.push_back(u);
  }
  if (members_.size() < 2) return;
  const double seconds = all_reduce_s(placed_.links, {members_.data(), size_of(members_)}, num_bytes);
  for (Int u : members_) load[u] += sign * seconds / static_cast<double>(placed_.num_microbatches);
}

}  // namespace drlpp
