#include "planners/pipedream/level_table.h"

#include <algorithm>
#include <limits>

#include "border/checks.h"
#include "cost/links.h"

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// What crosses a cut goes forth, and its gradient back.
double cut_s(double num_bytes, double bandwidth) { return wire_s({bandwidth, 0.0}, 2.0 * num_bytes); }

// The costs are those of the paper: a cut is charged twice, and an all-reduce over m machines 4 (m - 1) / m of the
// bytes.
class LevelFiller {
 public:
  explicit LevelFiller(const PipeDreamLevel& level)
      : level_(level),
        machines_(level.machines),
        inside_(level.num_states()),
        out_{OwnedCube<double>(level.num_starts, level.num_states(), level.machines, infinity),
             OwnedCube<Int>(level.num_starts, level.num_states(), level.machines, -1),
             OwnedCube<Int>(level.num_starts, level.num_states(), level.machines, 0)} {
    const double most = static_cast<double>(std::max<Int>(machines_ - 1, 1));
    for (Int j = 0; j < level.num_states(); ++j) {
      for (Int k = 0; k < j; ++k) {
        if (!level.contained[k][j]) continue;
        inside_[j].push_back(
            {k, std::max(level.stage_s[k][j], cut_s(level.boundary_bytes[k], level.bandwidth)) / most});
      }
    }
  }

  LevelTable fill() {
    for (Int start = 0; start < level_.num_starts; ++start) {
      for (Int j = start + 1; j < level_.num_states(); ++j) {
        if (level_.contained[start][j]) fill_stretch(start, j);
      }
    }
    return std::move(out_);
  }

 private:
  // A state inside another one, and the least that a last stage between the two costs.
  struct Inside {
    Int state;
    double least_s;
  };

  void fill_stretch(Int start, Int j) {
    fill_one_stage(start, j);
    double worst = largest(start, j);  // no entry is improved by more than this
    for (const Inside& inside : inside_[j]) {
      if (inside.least_s >= worst || inside.state <= start || !level_.contained[start][inside.state]) continue;
      for (const Int r : level_.replica_options) {
        if (r >= machines_) break;
        const double last_s = last_stage_s(inside.state, j, r);
        if (last_s < worst) add_last_stage(start, j, {inside.state, last_s}, r);
      }
      worst = largest(start, j);
    }
  }

  void fill_one_stage(Int start, Int j) {
    for (Int m = 1; m <= (level_.replicate ? machines_ : 1); ++m) {
      const double sync_s =
          4.0 * (m - 1) * level_.sync_bytes[start][j] / (level_.bandwidth * m) / level_.machines_inside;
      out_.best_s.row(start, j)[m - 1] = (level_.stage_s[start][j] + sync_s) / m;
      out_.replicas.row(start, j)[m - 1] = m;
    }
  }

  double last_stage_s(Int k, Int j, Int r) const {
    const double bandwidth = level_.bandwidth * r;
    double last_s = (level_.stage_s[k][j] + 4.0 * (r - 1) * level_.sync_bytes[k][j] / bandwidth) / r;
    last_s = std::max(last_s, cut_s(level_.boundary_bytes[k], bandwidth));
    if (j < level_.num_states() - 1) last_s = std::max(last_s, cut_s(level_.boundary_bytes[j], bandwidth));
    return last_s;
  }

  void add_last_stage(Int start, Int j, Inside last, Int r) {
    double* best_s = out_.best_s.row(start, j);
    const double* before_s = out_.best_s.row(start, last.state);
    for (Int m = r + 1; m <= machines_; ++m) {
      const double value = std::max(before_s[m - r - 1], last.least_s);
      if (!(value < best_s[m - 1])) continue;
      best_s[m - 1] = value;
      out_.split.row(start, j)[m - 1] = last.state;
      out_.replicas.row(start, j)[m - 1] = r;
    }
  }

  // The largest value on two machines or more; 0 where there is one.
  double largest(Int start, Int j) const {
    const double* best_s = out_.best_s.row(start, j);
    return machines_ > 1 ? *std::max_element(best_s + 1, best_s + machines_) : 0.0;
  }

  const PipeDreamLevel& level_;
  const Int machines_;
  std::vector<std::vector<Inside>> inside_;  // by state
  LevelTable out_;
};

}  // namespace

void PipeDreamLevel::check() const {
  for (const auto& table : {stage_s, sync_bytes}) {
    check_length("rows of stage_s and sync_bytes", table.rows, num_states());
    check_length("columns of stage_s and sync_bytes", table.columns, num_states());
  }
  check_length("rows of contained", contained.rows, num_states());
  check_length("columns of contained", contained.columns, num_states());
  check_range("num_starts", Ints{num_starts}, 0, num_states() + 1);
}

LevelTable fill_level(const PipeDreamLevel& level) { return LevelFiller(level).fill(); }

}  // namespace drlpp
