// The fast evaluator's semantics once more, by hand, to see what a compiler of C++ makes of them.
// Not part of the package: simulator_speed.py builds it with g++ and calls it through ctypes.
// Left out: gradient all-reduces (the benchmark has none).
#include <algorithm>
#include <cstdint>
#include <queue>
#include <utility>
#include <vector>

using Int = const int64_t *;
using Real = const double *;

struct Placed {
  int64_t num_mb, num_stages, num_devices, num_slots, num_dst, channel_width, num_hosts, ports_shared;
  Int slot_off, slot_device, message_off, message_backward, message_grad, message_src, dst_off, dst, returns_off,
      returns, forward_inputs, backward_inputs, host, local;
  Real action_s, held, again, resident, gradient, optimizer_s, message_bytes, message_s, link_bandwidth, link_latency,
      port_bandwidth, port_latency;
};

struct Listed {
  Int offset;
  const int32_t *stage;
  const int32_t *kind;
  const int32_t *microbatch;
};

namespace {
struct Run {
  const Placed &p;
  const Listed &list;
  double *peak;
  std::vector<int32_t> missing[2], consumers;
  std::vector<double> ready[2], channel, out, in, when, free_at, arrival;
  std::vector<int64_t> position, stamp, leader, stack;
  std::vector<char> idle;
  std::priority_queue<std::pair<double, int64_t>, std::vector<std::pair<double, int64_t>>, std::greater<>> heap;
  int64_t counter = 0;

  int64_t slot(int64_t s, int64_t m) const {
    const int64_t first = p.slot_off[s], replicas = p.slot_off[s + 1] - first;
    return replicas == 1 ? first : first + m % replicas;
  }

  double transfer(int64_t d, int64_t q, int64_t k, double now) {
    const int64_t a = p.host[d], b = p.host[q];
    if (p.message_s[k] >= 0 || a == b) {
      double &c = channel[d * p.channel_width + p.local[q]];
      c = std::max(now, c) + (p.message_s[k] >= 0 ? p.message_s[k] : p.message_bytes[k] / p.link_bandwidth[a]);
      return p.message_s[k] >= 0 ? c : c + p.link_latency[a];
    }
    const double start = std::max(now, std::max(out[a], in[b]));
    out[a] = in[b] = start + p.message_bytes[k] / std::min(p.port_bandwidth[a], p.port_bandwidth[b]);
    return out[a] + (p.port_latency[a] + p.port_latency[b]);
  }

  void start_next(int64_t d) {
    const int64_t i = position[d];
    if (!idle[d] || i == list.offset[d + 1]) return;
    const int64_t s = list.stage[i], kind = list.kind[i], m = list.microbatch[i];
    double start = free_at[d];
    if (kind != 3) {
      const int phase = kind != 0;
      const int64_t at = s * p.num_mb + m;
      if (missing[phase][at] > 0) return;
      start = std::max(start, ready[phase][at]);
    }
    when[d] = start + p.action_s[kind * p.num_slots + slot(s, m)];
    idle[d] = 0;
    if (p.ports_shared)
      heap.emplace(when[d], d);
    else
      stack.push_back(d);
  }

  void input(int phase, int64_t t, int64_t m, double at, int64_t current) {
    const int64_t to = t * p.num_mb + m, q = p.slot_device[slot(t, m)];
    ready[phase][to] = std::max(ready[phase][to], at);
    if (--missing[phase][to] == 0 && q != current) start_next(q);
  }

  bool first_there(int64_t k, int64_t j, int64_t m, int64_t d) const {
    int64_t i = p.dst_off[k];
    while (i < j && p.slot_device[slot(p.dst[i], m)] != d) ++i;
    return i == j;
  }

  // Peak memory: depends on the order only. Two actions ahead are received; two returned gradients are kept; gradients
  // of parameters come with the first backward pass; what a stage of the same device holds anyway counts once.
  void remember() {
    const int64_t slots = p.num_slots, devices = p.num_devices;
    std::vector<double> received(2 * slots, 0.0), returned(slots, 0.0), shared(slots, 0.0), read(list.offset[devices]);
    std::vector<int32_t> kept(slots, 0);
    for (int64_t src = 0; src < p.num_stages; ++src)
      for (int64_t k = p.message_off[src]; k < p.message_off[src + 1]; ++k) {
        const double size = p.message_bytes[k];
        for (int64_t j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j)
          for (int64_t at = p.slot_off[p.dst[j]]; at < p.slot_off[p.dst[j] + 1]; ++at) {
            const int64_t m = at - p.slot_off[p.dst[j]], d = p.slot_device[at];
            if (p.slot_device[slot(src, m)] == d) {
              const int64_t t = p.dst[j], replicas = p.slot_off[t + 1] - p.slot_off[t];
              if (p.message_grad[k] && p.again[src] == 0 && replicas % (p.slot_off[src + 1] - p.slot_off[src]) == 0)
                shared[at] += size;
              continue;
            }
            if (!first_there(k, j, m, d)) continue;
            received[(p.message_backward[k] ? slots : 0) + at] += size;
            if (p.message_grad[k]) returned[at] += size;
          }
        if (p.message_grad[k])
          for (int64_t at = p.slot_off[src]; at < p.slot_off[src + 1]; ++at)
            for (int64_t j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
              const int64_t m = at - p.slot_off[src], d = p.slot_device[slot(p.dst[j], m)];
              if (d != p.slot_device[at] && first_there(k, j, m, d)) received[slots + at] += size;
            }
      }
    for (int64_t i = 0; i < list.offset[devices]; ++i) {
      const int64_t at = slot(list.stage[i], list.microbatch[i]);
      read[i] = list.kind[i] == 3 ? 0.0 : received[list.kind[i] ? slots + at : at];
    }
    for (int64_t s = 0; s < p.num_stages; ++s)
      for (int64_t at = p.slot_off[s]; at < std::min(p.slot_off[s + 1], p.slot_off[s] + p.num_mb); ++at)
        peak[p.slot_device[at]] -= p.gradient[at];
    for (int64_t d = 0; d < devices; ++d) {
      double held = peak[d];
      for (int64_t i = list.offset[d], end = list.offset[d + 1]; i < end; ++i) {
        const int64_t s = list.stage[i], kind = list.kind[i];
        const int64_t at = slot(s, list.microbatch[i]);
        double during = held;
        if (kind == 0) {
          during = held += p.held[s] - shared[at];
        } else if (kind == 1) {
          during = held + p.again[s] + read[i];
          held -= p.held[s] - shared[at];
        } else if (kind == 2) {
          held += p.again[s] + shared[at];
          during = held + read[i];
        } else {
          held -= p.held[s] + p.again[s];
        }
        for (int64_t j = i + 1; j < std::min(i + 3, end); ++j) during += read[j];
        peak[d] = std::max(peak[d], during);
        if ((kind == 1 || kind == 2) && kept[at] < 2) {
          if (kept[at]++ == 0) held += p.gradient[at];
          held += returned[at];
        }
      }
      peak[d] = std::max(peak[d], held);
    }
  }

  double run() {
    remember();
    for (int64_t d = 0; d < p.num_devices; ++d) start_next(d);
    while (p.ports_shared ? !heap.empty() : !stack.empty()) {
      int64_t d;
      if (p.ports_shared) {
        d = heap.top().second;
        heap.pop();
      } else {
        d = stack.back();
        stack.pop_back();
      }
      const int64_t i = position[d]++;
      const int64_t s = list.stage[i], kind = list.kind[i], m = list.microbatch[i];
      const double end = free_at[d] = when[d];
      idle[d] = 1;
      if (kind != 3) {
        const int phase = kind != 0;
        for (int64_t k = p.message_off[s]; k < p.message_off[s + 1]; ++k) {
          if (p.message_backward[k] != phase) continue;
          ++counter;
          int32_t receivers = 0;
          for (int64_t j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
            const int64_t t = p.dst[j], q = p.slot_device[slot(t, m)];
            if (stamp[q] != counter) {
              stamp[q] = counter;
              leader[q] = j;
              ++receivers;
              arrival[q] = q == d ? end : transfer(d, q, k, end);
            }
            ++consumers[leader[q] * p.num_mb + m];
            input(phase, t, m, arrival[q], d);
          }
          if (p.message_grad[k]) missing[1][s * p.num_mb + m] += receivers;
        }
        if (phase == 1)
          for (int64_t r = p.returns_off[s]; r < p.returns_off[s + 1]; ++r) {
            const int64_t k = p.returns[r];
            int64_t j = p.dst_off[k];
            while (p.slot_device[slot(p.dst[j], m)] != d) ++j;
            if (--consumers[j * p.num_mb + m] == 0) {
              const int64_t t = p.message_src[k], q = p.slot_device[slot(t, m)];
              input(1, t, m, q == d ? end : transfer(d, q, k, end), d);
            }
          }
      }
      start_next(d);
    }
    double time = 0;
    for (int64_t d = 0; d < p.num_devices; ++d) time = std::max(time, free_at[d] + p.optimizer_s[d]);
    return time;
  }
};
}  // namespace

extern "C" double replay(const Placed *placed, const Listed *listed, double *peak) {
  const Placed &p = *placed;
  const size_t n = p.num_stages * p.num_mb, u = p.num_devices;
  Run run{p, *listed, peak};
  for (int phase = 0; phase < 2; ++phase) {
    run.missing[phase].resize(n);
    run.ready[phase].assign(n, 0.0);
    for (int64_t s = 0; s < p.num_stages; ++s)
      std::fill_n(run.missing[phase].begin() + s * p.num_mb, p.num_mb,
                  phase ? p.backward_inputs[s] : p.forward_inputs[s]);
  }
  run.consumers.assign(p.num_dst * p.num_mb, 0);
  run.channel.assign(u * p.channel_width, 0.0);
  run.out.assign(p.num_hosts, 0.0);
  run.in.assign(p.num_hosts, 0.0);
  run.when.assign(u, 0.0);
  run.free_at.assign(u, 0.0);
  run.arrival.assign(u, 0.0);
  std::copy_n(p.resident, u, peak);
  run.position.assign(listed->offset, listed->offset + u);
  run.stamp.assign(u, 0);
  run.leader.assign(u, 0);
  run.idle.assign(u, 1);
  return run.run();
}
