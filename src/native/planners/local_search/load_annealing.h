// Simulated annealing of the stages of ops on the exact steady-state loads; see `load_annealing.py`.
#pragma once

#include "cost/incremental_loads.h"
#include "planners/local_search/stage_annealing.h"

namespace drlpp {

// [N] the best stages of a run from those of `loads`, which moves with the run.
Ints anneal_loads(IncrementalLoads& loads, const OpAmounts& ops, const Cooling& cooling);

}  // namespace drlpp
