#include "planners/consecutive/split_states.h"

#include <algorithm>
#include <limits>

#include "border/checks.h"

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

BoundaryAmounts no_amounts(Int states) {
  return {OwnedTable<double>(states, states, infinity), OwnedTable<double>(states, states, 0.0)};
}

// Values that cross one end of a stage, with their sum: where none is left it is exactly 0, whatever the rounding.
struct Crossing {
  double amount = 0.0;
  Int number = 0;

  void add(double value) {
    amount += value;
    ++number;
  }
  void take(double value) {
    amount -= value;
    --number;
  }
  double sum() const { return number ? amount : 0.0; }
};

// A stage that grows by one op after another.
class GrowingStage {
 public:
  explicit GrowingStage(const OpAmounts& ops)
      : ops_(ops), consumed_(ops.num_values()), is_produced_(ops.num_values()) {}

  void clear() {
    std::fill(consumed_.begin(), consumed_.end(), 0);
    std::fill(is_produced_.begin(), is_produced_.end(), 0);
    received_ = sent_ = Crossing();
  }

  void add(Int op) {
    const auto touched = ops_.touched(op);
    for (Int k = 0; k < touched.size(); ++k) {
      if (k < ops_.produces[op]) {
        produce(touched[k]);
      } else {
        consume(touched[k]);
      }
    }
  }

  double received() const { return received_.sum(); }
  double sent() const { return sent_.sum(); }

 private:
  void produce(Int v) {
    is_produced_[v] = 1;
    if (consumed_[v] > 0) received_.take(ops_.value_amount[v]);
    if (consumed_[v] < ops_.num_consumers(v)) sent_.add(ops_.value_amount[v]);
  }

  void consume(Int v) {
    ++consumed_[v];
    if (is_produced_[v]) {
      if (consumed_[v] == ops_.num_consumers(v)) sent_.take(ops_.value_amount[v]);
    } else if (consumed_[v] == 1) {
      received_.add(ops_.value_amount[v]);
    }
  }

  const OpAmounts& ops_;
  Ints consumed_;  // [V] consumers in the stage
  std::vector<char> is_produced_;
  Crossing received_, sent_;
};

bool contains(const bool* whole, const bool* part, Int num_ops) {
  for (Int op = 0; op < num_ops; ++op) {
    if (part[op] && !whole[op]) return false;
  }
  return true;
}

// The values that cross the split behind each state.
std::vector<Ints> crossing_values(const OpAmounts& ops, Table<const bool> members,
                                  const OwnedTable<Int>& consumers_inside) {
  std::vector<Ints> crossing(members.rows);
  for (Int p = 0; p < members.rows; ++p) {
    for (Int v = 0; v < ops.num_values(); ++v) {
      const Int inside = consumers_inside[p][v];
      if (members[p][ops.value_src[v]] ? inside < ops.num_consumers(v) : inside > 0) crossing[p].push_back(v);
    }
  }
  return crossing;
}

}  // namespace

BoundaryAmounts amounts_along_order(const OpAmounts& ops, View<const Int> order, View<const Int> ends) {
  check_range("order", order, 0, ops.num_ops());
  check_range("ends", ends, 0, order.size() + 1);
  const Int blocks = ends.size();
  BoundaryAmounts out = no_amounts(blocks + 1);
  GrowingStage stage(ops);
  for (Int first = 0; first < blocks; ++first) {
    stage.clear();
    for (Int block = first; block < blocks; ++block) {
      for (Int position = block ? ends[block - 1] : 0; position < ends[block]; ++position) stage.add(order[position]);
      out.received[first][block + 1] = stage.received();
      out.sent[first][block + 1] = stage.sent();
    }
  }
  return out;
}

BoundaryAmounts amounts_over_downsets(const OpAmounts& ops, Table<const bool> members) {
  check_length("columns of members", members.columns, ops.num_ops());
  const Int states = members.rows, values = ops.num_values();
  OwnedTable<Int> inside(states, values, 0);  // consumers of each value in each state
  for (Int p = 0; p < states; ++p) {
    for (Int v = 0; v < values; ++v) {
      for (const Int op : ops.consumers(v)) inside[p][v] += members[p][op];
    }
  }
  const auto crossing = crossing_values(ops, members, inside);
  BoundaryAmounts out = no_amounts(states);
  Ints seen(values, -1);  // pair of states that a value was last counted for
  for (Int i = 0; i < states; ++i) {
    for (Int j = i + 1; j < states; ++j) {
      if (!contains(members[j], members[i], members.columns)) continue;
      double received = 0.0, sent = 0.0;
      for (const Int p : {i, j}) {
        for (const Int v : crossing[p]) {
          if (seen[v] == i * states + j) continue;
          seen[v] = i * states + j;
          const Int source = ops.value_src[v], here = inside[j][v] - inside[i][v];
          if (members[j][source] && !members[i][source]) {
            if (here < ops.num_consumers(v)) sent += ops.value_amount[v];
          } else if (here > 0) {
            received += ops.value_amount[v];
          }
        }
      }
      out.received[i][j] = received;
      out.sent[i][j] = sent;
    }
  }
  return out;
}

}  // namespace drlpp
