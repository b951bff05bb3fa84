#include "schedules/selection.h"

#include <algorithm>
#include <cmath>

#include "schedules/looped.h"

namespace drlpp {

namespace {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
// Times that differ by less than this are equal but for rounding; then the schedule that comes first is chosen.
constexpr double TIE_TOLERANCE = 1.0 - 1e-12;
constexpr Int NUM_SLACKS = static_cast<Int>(SLACKS.size());

bool is_interleaved(ScheduleKind kind) {
  return kind == ScheduleKind::interleaved_1f1b || kind == ScheduleKind::interleaved_zero_bubble;
}

bool is_list(ScheduleKind kind) { return kind == ScheduleKind::list || kind == ScheduleKind::split_list; }

// Least seconds of message k between two stages; 0 if they have replicas.
double path_s(const PlacedStages& p, Int k, Int src, Int dst) {
  if (p.replicas(src) > 1 || p.replicas(dst) > 1) return 0.0;
  const Int u = p.slot_device[p.slot_off[src]], v = p.slot_device[p.slot_off[dst]];
  if (u == v) return 0.0;
  return p.message_s[k] >= 0.0 ? p.message_s[k] : transfer_s(p.links.path(u, v), p.message_bytes[k]);
}

}  // namespace

bool splits_backward(ScheduleKind kind) {
  return kind == ScheduleKind::zero_bubble || kind == ScheduleKind::interleaved_zero_bubble ||
         kind == ScheduleKind::zbv || kind == ScheduleKind::split_list;
}

bool applies(const PlacedStages& p, ScheduleKind kind) {
  if (kind == ScheduleKind::zbv) return is_v_shaped(p);
  if (splits_backward(kind)) {
    bool some = false;  // without time for weight gradients there is nothing to split off
    for (Int i = 0; i < p.num_slots(); ++i) some = some || p.seconds(WEIGHT_GRAD, i) != 0.0;
    if (!some) return false;
  }
  return !is_interleaved(kind) || is_interleaved(p);
}

// The shortest ways of a micro-batch to each stage (`head_`), and back from it to the start (`tail_`).
void Selection::measure_ways(const PlacedStages& p, bool split) {
  const Int stages = p.num_stages(), back = split ? INPUT_GRAD : BACKWARD;
  head_.assign(stages, 0.0);
  tail_.assign(stages, 0.0);
  forward_.assign(stages, INFINITE);
  backward_.assign(stages, INFINITE);
  for (Int s = 0; s < stages; ++s) {
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      forward_[s] = std::min(forward_[s], p.seconds(FORWARD, i));
      backward_[s] = std::min(backward_[s], p.seconds(back, i));
    }
  }
  for (Int s = 0; s < stages; ++s) {
    for (Int k = p.message_off[s]; k < p.message_off[s + 1]; ++k) {
      for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
        const Int t = p.dst[j];
        const double path = path_s(p, k, s, t);
        if (p.message_backward[k]) {  // to an earlier stage, whose tail is known
          tail_[s] = std::max(tail_[s], path + backward_[t] + tail_[t]);
        } else {
          head_[t] = std::max(head_[t], head_[s] + forward_[s] + path);
        }
      }
    }
    for (Int k = p.message_off[s]; k < p.message_off[s + 1]; ++k) {
      if (!p.message_grad[k]) continue;
      for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
        const Int t = p.dst[j];
        tail_[t] = std::max(tail_[t], path_s(p, k, s, t) + backward_[s] + tail_[s]);
      }
    }
  }
}

void Selection::measure_bound(const PlacedStages& p, bool split, WorkBound& bound) {
  measure_ways(p, split);
  const Int devices = p.num_devices(), back = split ? INPUT_GRAD : BACKWARD;
  first_.assign(devices, INFINITE);
  way_back_.assign(devices, INFINITE);
  weights_.assign(devices, 0.0);
  bound.work_s.assign(devices, 0.0);
  bound.after_s = p.optimizer_s;
  for (Int s = 0; s < p.num_stages(); ++s) {
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      if (p.slot_microbatches[i] == 0) continue;
      const Int d = p.slot_device[i];
      const double count = static_cast<double>(p.slot_microbatches[i]);
      first_[d] = std::min(first_[d], head_[s]);
      way_back_[d] = std::min(way_back_[d], tail_[s]);
      bound.work_s[d] += count * (p.seconds(FORWARD, i) + p.seconds(back, i));
      weights_[d] += count * p.seconds(WEIGHT_GRAD, i);
    }
  }
  bound.time_s = 0.0;
  for (Int d = 0; d < devices; ++d) {
    double& work = bound.work_s[d];
    double& after = bound.after_s[d];
    if (work + weights_[d] <= 0.0) continue;
    bound.time_s = std::max(bound.time_s, first_[d] + work + way_back_[d]);
    if (split) {
      work += weights_[d];
    } else {
      after = std::max(after, way_back_[d]);
    }
    bound.time_s = std::max(bound.time_s, first_[d] + work + after);
  }
  bound.known = true;
}

void Selection::make_named(const PlacedStages& p, ScheduleKind kind) {
  last_s_ = 0.0;
  switch (kind) {
    case ScheduleKind::interleaved_1f1b:
    case ScheduleKind::interleaved_zero_bubble:
      return interleaved(p, splits_backward(kind), order_, fill_);
    case ScheduleKind::zbv:
      return zbv(p, order_, fill_);
    case ScheduleKind::gpipe:
      gpipe(p, depths_, wave_);
      break;
    case ScheduleKind::zero_bubble:
      zero_bubble(depths_, wave_);
      break;
    default:
      one_f_one_b(depths_, kind == ScheduleKind::eager_1f1b ? 2 : 1, wave_);
  }
  waves_.sort(p, wave_, order_);
}

void Selection::make_list(const PlacedStages& p, const WorkBound& bound, bool split, Int run, double enough_s) {
  const ListScheduler::Options options{SLACKS[run], split, &bound.work_s, &bound.after_s, enough_s};
  last_s_ = lister_.run(p, depths_, messages_, options, order_);
}

void Selection::keep_if_best(const PlacedStages& p, Int label, double cost) {
  memory_.measure(p, messages_, order_, peak_);
  const double time = replay_.run(p, order_);
  double over = 0.0;
  for (Int d = 0; d < p.num_devices(); ++d) over = std::max(over, peak_[d] - p.memory_bytes[d]);
  if (over < best_.over_bytes || (over == best_.over_bytes && time * cost < best_score_ * TIE_TOLERANCE)) {
    best_ = {label, time, over};
    best_score_ = time * cost;
    best_peak_.swap(peak_);
    std::swap(best_order_, order_);
  }
}

// Makes and replays the orders of one kind, as long as they can become the best.
void Selection::try_kind(const PlacedStages& p, ScheduleKind kind, Int label) {
  const bool split = splits_backward(kind), list = is_list(kind);
  WorkBound& bound = bounds_[split ? 1 : 0];
  if (!bound.known && (best_.kind >= 0 || list)) measure_bound(p, split, bound);
  const double cost = split ? 1.0 + SPLIT_BACKWARD_COST : 1.0;
  for (Int run = 0; run < (list ? NUM_SLACKS : 1); ++run) {
    const double enough_s = best_.over_bytes <= 0.0 ? best_score_ / cost * TIE_TOLERANCE : INFINITE;
    if (bound.known && bound.time_s >= enough_s) return;
    if (list) {
      make_list(p, bound, split, run, enough_s);
    } else {
      make_named(p, kind);
    }
    if (last_s_ < enough_s) keep_if_best(p, label, cost);
    if (!list || !lister_.limited()) return;
  }
}

Selection::Result Selection::choose(const PlacedStages& p, const Wanted& wanted, double give_up_s) {
  best_ = Result{};
  best_score_ = INFINITE;
  depths_.measure(p);
  messages_.measure(p);
  bounds_[0].known = bounds_[1].known = false;
  for (Int number = 0; number < NUM_SCHEDULES; ++number) {
    const auto kind = static_cast<ScheduleKind>(number);
    const auto list = splits_backward(kind) ? ScheduleKind::split_list : ScheduleKind::list;
    const Int label = wanted[number] ? number : static_cast<Int>(list);
    if (!wanted[label] || !applies(p, kind)) continue;
    try_kind(p, kind, label);
    if (best_.over_bytes <= 0.0 && best_.time_s > give_up_s) break;
  }
  return best_;
}

}  // namespace drlpp
