// The extension module `drlpp._native`. `DRLPP_SOURCE_HASH` says which sources it was built from (drlpp/native.py).
#include "border/bindings.h"

PYBIND11_MODULE(_native, module) {
  module.attr("SOURCE_HASH") = DRLPP_SOURCE_HASH;
  drlpp::bind_cost(module);
  drlpp::bind_schedules(module);
  drlpp::bind_sim(module);
  drlpp::bind_planners(module);
  drlpp::bind_agent(module);
}
