#include "planners/bounds/completion_bound.h"

#include <algorithm>
#include <limits>

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Least weight of a type that has devices.
double least_weight(const Row& row) {
  double least = infinity;
  for (Int t = 0; t < row.num_types(); ++t) {
    if (row.count[t] > 0) least = std::min(least, row.weight[t]);
  }
  return least;
}

// Least weighted seconds of a group on a type that has devices.
double least_weighted_s(const Row& row, Int g) {
  double least = infinity;
  for (Int t = 0; t < row.num_types(); ++t) {
    if (row.count[t] > 0) least = std::min(least, row.seconds[t][g] * row.weight[t]);
  }
  return least;
}

// Seconds of a group on a type; inf where the type has no devices.
double usable_s(const Row& row, Int t, Int g) { return row.count[t] > 0 ? row.seconds[t][g] : infinity; }

double least_s(const Row& row, Int g) {
  double least = infinity;
  for (Int t = 0; t < row.num_types(); ++t) least = std::min(least, usable_s(row, t, g));
  return least;
}

}  // namespace

CompletionBound::CompletionBound(const Row& row, const Overlap& overlap, const Cube<const double>& between)
    : moved_(row.moved_s), satellite_(row.satellite), exchange_(row.exchange) {
  const Int devices = row.num_devices(), most = max_replicas();
  all_devices_ = devices <= most ? devices : most + 1;
  set_moves(overlap, devices, least_weight(row));
  set_stays(row, between, least_weight(row));
  set_onward(row, overlap);
}

void CompletionBound::set_moves(const Overlap& overlap, Int devices, double least_weight) {
  const Int most = max_replicas();
  const auto& share = overlap.share;
  moved_share_ = OwnedTable<double>(most + 1, most + 1, 0.0);
  of_each_ = OwnedTable<double>(most + 1, most + 1, 0.0);
  of_new_ = OwnedTable<double>(most + 1, most + 1, 0.0);
  new_ = OwnedTable<Int>(most + 1, most + 1, 0);
  for (Int r = 1; r <= most; ++r) {
    for (Int q = 1; q <= most; ++q) {
      const Int common = r != q ? std::min(r, q) : r - 1;
      if (r != q || r < devices) {
        moved_share_[r][q] =
            least_weight * std::max(0.0, r * share[r] + q * share[q] - 2 * common * overlap.kept[r][q]);
      }
      of_each_[r][q] = std::min(share[q], overlap.moved_by_both(r, q));
      of_new_[r][q] = share[q];
      new_[r][q] = q - common;
    }
  }
}

void CompletionBound::set_stays(const Row& row, const Cube<const double>& between, double least_weight) {
  const Int num = num_groups(), most = max_replicas();
  stay_ = OwnedTable<double>(num + 1, most + 1, 0.0);
  here_ = OwnedTable<double>(num, most + 1, 0.0);
  run_ = OwnedTable<double>(num + 1, most + 1, 0.0);
  for (Int g = 0; g < num; ++g) {
    const double params = row.param_bytes[g], weighted = least_weighted_s(row, g), least = least_s(row, g);
    for (Int r = 1; r <= most; ++r) {
      if (!satellite_[g]) here_[g][r] = least / r + exchange_[r] * params;
      double taken_out = infinity;
      for (Int t = 0; t < row.num_types(); ++t) taken_out = std::min(taken_out, between.row(t, g)[r]);
      run_[g + 1][r] = run_[g][r] + here_[g][r] + taken_out;
      double best = weighted + r * exchange_[r] * params * least_weight;
      if (satellite_[g]) {
        for (Int q = 1; q <= most; ++q) {
          const double own = weighted + q * exchange_[q] * params * least_weight;
          best = std::min(best, own + moved_[g] * moved_share_[r][q]);
        }
      }
      stay_[g + 1][r] = stay_[g][r] + best;
    }
  }
}

void CompletionBound::set_onward(const Row& row, const Overlap& overlap) {
  const Int types = row.num_types(), num = num_groups(), most = max_replicas();
  const auto& share = overlap.share;
  onward_ = OwnedCube<double>(types, num, most + 1, 0.0);
  enter_ = OwnedCube<double>(most + 1, types, num, infinity);
  const auto onward = onward_.cube();
  const auto enter = enter_.cube();
  for (Int t = 0; t < types; ++t) {
    Int next_main = num;  // main group after g
    for (Int g = num - 2; g >= 0; --g) {
      const Int after = g + 1;
      for (Int q = 1; q <= most; ++q) {
        double own = usable_s(row, t, after) / q + exchange_[q] * row.param_bytes[after] + share[q] * moved_[after];
        own += satellite_[after] ? 0.0 : onward.row(t, after)[q];
        enter.row(q, t)[g] = std::min({enter.row(q - 1, t)[g], enter.row(q, t)[after], own});
      }
      if (!satellite_[after]) next_main = after;
      if (next_main == num) continue;
      for (Int r = 1; r <= most; ++r) {
        double best = share[r] * moved_[next_main];
        for (Int q = 1; q <= most; ++q) {
          const double move = q == r ? 0.0 : moved_[next_main] * overlap.moved_by_both(r, q);
          best = std::min(best, move + usable_s(row, t, next_main) / q + exchange_[q] * row.param_bytes[next_main] +
                                    onward.row(t, next_main)[q]);
        }
        onward.row(t, g)[r] = best;
      }
    }
  }
}

void CompletionBound::to_come(Int first, Room room, Table<double> start, Cube<double> ahead) const {
  const Int num = num_groups();
  Int most = max_replicas();  // sets of more devices have no room
  while (most > 1 && room[most] < 0) --most;
  for (Int r = 0; r <= most; ++r) start[num][r] = 0.0;
  for (Int g = num - 1; g >= first; --g) {
    for (Int r = 0; r <= most; ++r) start[g][r] = infinity;
    for (Int r = 1; r <= most; ++r) {
      double best = infinity;
      for (Int j = g; j < num; ++j) {  // the run goes on up to group j
        if (j + 1 == num || !satellite_[j + 1]) {
          best = std::min(best, stay_[j + 1][r] - stay_[g + 1][r] + start[j + 1][r]);
        }
        ahead.row(g, r)[j] = best;
      }
    }
    if (satellite_[g] || g == first) continue;
    for (Int r = 1; r <= most; ++r) start[g][r] = start_of_run(g, r, most, room, ahead);
  }
}

double CompletionBound::start_of_run(Int g, Int r, Int most, Room room, const Cube<double>& ahead) const {
  double least = infinity;
  for (Int q = 1; q <= most; ++q) {
    if (q == r && r == all_devices_) continue;  // it would be the same set
    double left = room[q] - of_each_[r][q] * moved_[g];
    if (new_[r][q] > 0) left = std::min(left, room[new_[r][q]] - of_new_[r][q] * moved_[g]);
    left -= here_[g][q];
    if (left < 0) continue;
    const double own = stay_[g + 1][q] - stay_[g][q];
    least = std::min(least, own + moved_[g] * moved_share_[r][q] + ahead.row(g, q)[last_of_run(g, q, left)]);
  }
  return least;
}

Int CompletionBound::last_of_run(Int g, Int r, double room) const {
  Int low = g, high = num_groups() - 1;
  while (low < high) {
    const Int middle = (low + high + 1) / 2;
    if (run_[middle + 1][r] - run_[g + 1][r] <= room) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

OwnedCube<double> least_between(const Row& row, const Overlap& overlap) {
  const Int most = row.max_replicas();
  OwnedCube<double> out(row.num_types(), row.num_groups(), most + 1, 0.0);
  for (Int r = 1; r <= most; ++r) {
    double part = overlap.share[r];
    for (Int q = 1; q <= most; ++q) {
      if (q != r) part = std::min(part, overlap.moved_by_both(r, q));
    }
    for (Int g = 0; g < row.num_groups(); ++g) {
      for (Int t = 0; t < row.num_types(); ++t) {
        out.row(t, g)[r] = std::min(row.between_s[t][g] / r, part * row.moved_s[g]);
      }
    }
  }
  return out;
}

}  // namespace drlpp
