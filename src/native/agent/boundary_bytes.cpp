#include "agent/boundary_bytes.h"

#include <algorithm>

#include "border/checks.h"

namespace drlpp {

void boundary_bytes(const TensorGraph& graph, View<const Int> order, Table<double> into, Table<double> out) {
  const Int n = graph.num_ops();
  check_length("order", order.size(), n);
  check_range("order", order, 0, n);
  Ints position(n), places;
  for (Int i = 0; i < n; ++i) position[order[i]] = i;
  for (Int q = 0; q < graph.num_tensors(); ++q) {
    const double num_bytes = graph.tensor_bytes[q];
    places.clear();
    for (const Int op : graph.ops_of(q)) places.push_back(position[op]);
    std::sort(places.begin(), places.end());
    // a stretch that begins at i reads it if its end is past the first reader from i on
    for (std::size_t k = 1; k < places.size(); ++k) {
      for (Int i = places[k - 1] + 1; i <= places[k]; ++i) into[i][places[k] + 1] += num_bytes;
    }
    // a stretch that ends at j sends it on if it begins where it is made, or before
    for (Int j = places.front() + 1; j <= places.back(); ++j) out[places.front()][j] += num_bytes;
  }
  for (Int i = 0; i <= n; ++i) {
    for (Int j = 1; j <= n; ++j) into[i][j] += into[i][j - 1];
  }
  for (Int i = n - 1; i >= 0; --i) {
    for (Int j = 0; j <= n; ++j) out[i][j] += out[i + 1][j];
  }
}

}  // namespace drlpp
