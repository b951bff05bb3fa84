#include "planners/bounds/group_row.h"

#include "border/checks.h"

namespace drlpp {

void Row::check() const {
  const Int groups = num_groups(), types = num_types();
  check_length("rows of seconds", seconds.rows, types);
  check_length("columns of seconds", seconds.columns, groups);
  check_length("rows of between_s", between_s.rows, types);
  check_length("columns of between_s", between_s.columns, groups);
  check_length("moved_s", moved_s.size(), groups);
  check_length("satellite", satellite.size(), groups);
  check_length("beside_s", beside_s.size(), groups);
  check_length("held", held.size(), groups);
  check_length("count", count.size(), types);
  check_range("held", held, static_cast<Int>(Hold::nothing), static_cast<Int>(Hold::keep_if_same) + 1);
}

}  // namespace drlpp
