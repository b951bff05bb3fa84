#include "sim/batch_evaluator.h"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

#include "cost/device_loads.h"

namespace drlpp {

BatchEvaluator::BatchEvaluator(ProblemArrays problem, Int num_threads)
    : problem_(std::move(problem)), workers_(std::max<Int>(1, num_threads)) {}

void BatchEvaluator::evaluate_one(Worker& worker, const AssignmentView& assignment, Int b,
                                  const Selection::Wanted& wanted, double give_up_s, Evaluations& out) {
  PlacedStages& p = worker.placed;
  if (!worker.placement.place(problem_, assignment, p)) {
    out.schedule[b] = ILLEGAL;
    return;
  }
  const Selection::Result best = worker.selection.choose(p, wanted, give_up_s);
  out.schedule[b] = best.kind;
  out.iteration_time_s[b] = best.time_s;
  out.over_memory_bytes[b] = best.over_bytes;
  if (best.kind == NO_SCHEDULE) return;
  device_loads(p, worker.loads);
  double* busy = out.compute_s[b];
  for (Int u = 0; u < p.num_devices(); ++u) {
    out.bottleneck_s[b] = std::max(out.bottleneck_s[b], worker.loads[u]);
    out.peak_memory_bytes[b][p.used[u]] = worker.selection.peak_bytes()[u];
    busy[p.used[u]] = p.optimizer_s[u];
  }
  for (Int i = 0; i < p.num_slots(); ++i) {
    const double seconds = p.seconds(FORWARD, i) + p.seconds(BACKWARD, i);
    busy[p.used[p.slot_device[i]]] += static_cast<double>(p.slot_microbatches[i]) * seconds;
  }
}

void BatchEvaluator::evaluate_part(Worker& worker, const PackedAssignments& packed, Int begin, Int end,
                                   const Selection::Wanted& wanted, double give_up_s, Evaluations& out) {
  for (Int b = begin; b < end; ++b) evaluate_one(worker, packed[b], b, wanted, give_up_s, out);
}

Evaluations BatchEvaluator::evaluate(const PackedAssignments& packed, const Selection::Wanted& wanted,
                                     double give_up_s, FlatSchedule* order) {
  const std::lock_guard<std::mutex> alone(mutex_);
  const Int number = packed.size(), devices = problem_.num_devices();
  Evaluations out;
  out.schedule.assign(number, NO_SCHEDULE);
  for (Reals* values : {&out.iteration_time_s, &out.bottleneck_s, &out.over_memory_bytes}) values->assign(number, 0.0);
  out.peak_memory_bytes.assign(number, devices, 0.0);
  out.compute_s.assign(number, devices, 0.0);
  const Int parts = std::min(size_of(workers_), std::max<Int>(1, number));
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(parts);
  const auto part = [&](Int w) {
    try {
      evaluate_part(workers_[w], packed, number * w / parts, number * (w + 1) / parts, wanted, give_up_s, out);
    } catch (...) {
      errors[w] = std::current_exception();
    }
  };
  for (Int w = 0; w + 1 < parts; ++w) threads.emplace_back(part, w);
  part(parts - 1);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  if (order != nullptr) *order = workers_[parts - 1].selection.order();
  return out;
}

Reals BatchEvaluator::loads(const AssignmentView& assignment) {
  const std::lock_guard<std::mutex> alone(mutex_);
  Worker& worker = workers_.front();
  if (!worker.placement.place(problem_, assignment, worker.placed)) return {};
  device_loads(worker.placed, worker.loads);
  Reals out(problem_.num_devices(), 0.0);
  for (Int u = 0; u < worker.placed.num_devices(); ++u) out[worker.placed.used[u]] = worker.loads[u];
  return out;
}

}  // namespace drlpp
