// What the program did on the device: launches, copies and waits, by phase and by operator. Written as JSON when the
// process ends, and as a trace while it runs.

#include "simulated.h"

#include <torch/csrc/autograd/function.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>

namespace simulated {

// Backward is what an autograd node calls. Of the rest, operators on lists of tensors (_foreach_, _fused_) are
// clipping, optimizer and averages; all else is data, forward and loss.
enum Phase { FORWARD, BACKWARD, UPDATE, PHASES };
static const char *PHASE_NAMES[] = {"forward", "backward", "update"};
static const char *EVENT_NAMES[] = {"launch", "to_device", "to_host", "wait", "collective"};

static Phase phase_of(const std::string &what) {
  if (torch::autograd::get_current_node()) return BACKWARD;
  return what.rfind("_foreach_", 0) == 0 || what.rfind("_fused_", 0) == 0 ? UPDATE : FORWARD;
}

struct Counts {
  size_t launches = 0, kernels = 0, bytes = 0, to_device = 0, to_host = 0, waits = 0;
};

struct Report {
  std::mutex mutex;
  Counts phases[PHASES];
  std::map<std::string, size_t> launches, waits, collectives, notes;
  size_t computed = 0, views = 0, missing = 0, allocations = 0;
  std::vector<size_t> live, peak;
  FILE *trace = nullptr;

  Report() : live(settings().gpus.size()), peak(settings().gpus.size()) {
    if (settings().trace.empty()) return;
    trace = fopen(settings().trace.c_str(), "w");
    if (trace) fprintf(trace, "event\tphase\twhat\tkernels\tbytes\twaits\tlive\tshapes\n");
  }

  void write(FILE *out);
};

// Never destroyed: tensors that outlive the statics of this library are still counted.
static Report &all() {
  static auto *report = new Report();
  return *report;
}

// As in "Float[2,3] cpu:Long[4]", cut where there are many.
static std::string shapes(const std::vector<Tensor> &tensors) {
  std::string text;
  for (const auto &t : tensors) {
    if (!t.defined()) continue;
    if (text.size() > 200) return text + " …";
    text += (text.empty() ? "" : " ") + std::string(t.is_cuda() ? "" : "cpu:") + c10::toString(t.scalar_type()) + "[";
    for (int64_t i = 0; i < t.dim(); i++) text += (i ? "," : "") + std::to_string(t.size(i));
    text += "]";
  }
  return text;
}

static std::atomic<size_t> launched{0};

void check_not_lost() {
  if (launched <= settings().lost) return;
  throw c10::AcceleratorError(
      {__func__, __FILE__, __LINE__}, 700,
      "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in "
      "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.\nCUDA kernel "
      "errors might be asynchronously reported at some other API call, so the stacktrace below might be "
      "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
      "device-side assertions.\n");
}

void record(Event event, const std::string &what, Cost cost, const std::vector<Tensor> &tensors) {
  check_not_lost();
  // The one that loses the device goes well: the host learns of it from its next call.
  if (event == Event::LAUNCH || event == Event::COLLECTIVE) launched++;
  if (cost.waits) finish_copies();
  auto phase = phase_of(what);
  auto &report = all();
  std::lock_guard<std::mutex> lock(report.mutex);
  auto &counts = report.phases[phase];
  counts.launches += event == Event::LAUNCH;
  counts.to_device += event == Event::TO_DEVICE;
  counts.to_host += event == Event::TO_HOST;
  counts.kernels += cost.kernels;
  counts.bytes += cost.bytes;
  counts.waits += cost.waits;
  if (event == Event::LAUNCH) report.launches[what]++;
  if (event == Event::COLLECTIVE) report.collectives[what]++;
  if (cost.waits) report.waits[what]++;
  if (report.trace)
    fprintf(report.trace, "%s\t%s\t%s\t%zu\t%zu\t%d\t%zu\t%s\n", EVENT_NAMES[static_cast<int>(event)],
            PHASE_NAMES[phase], what.c_str(), cost.kernels, cost.bytes, cost.waits,
            report.live.empty() ? 0 : report.live[0], shapes(tensors).c_str());
}

size_t launches_so_far() {
  std::lock_guard<std::mutex> lock(all().mutex);
  size_t sum = 0;
  for (const auto &phase : all().phases) sum += phase.launches;
  return sum;
}

void note(const std::string &what) {
  std::lock_guard<std::mutex> lock(all().mutex);
  all().notes[what]++;
}

void registered(size_t computed, size_t views, size_t missing) {
  auto &report = all();
  report.computed = computed, report.views = views, report.missing = missing;
}

void holds(int device, size_t bytes) {
  auto &report = all();
  std::lock_guard<std::mutex> lock(report.mutex);
  report.allocations += bytes > report.live[device];
  report.live[device] = bytes;
  report.peak[device] = std::max(report.peak[device], bytes);
}

c10::CachingAllocator::Stat held(int device) {
  auto &report = all();
  std::lock_guard<std::mutex> lock(report.mutex);
  c10::CachingAllocator::Stat stat;
  stat.current = report.live[device];
  stat.peak = report.peak[device];
  return stat;
}

// Names are those of operators and of this library: nothing in them needs an escape.
static void write_counts(FILE *out, const char *name, const std::map<std::string, size_t> &counts) {
  fprintf(out, "  \"%s\": {", name);
  const char *comma = "";
  for (const auto &[what, n] : counts) {
    fprintf(out, "%s\n    \"%s\": %zu", comma, what.c_str(), n);
    comma = ",";
  }
  fprintf(out, "\n  }");
}

void Report::write(FILE *out) {
  fprintf(out, "{\n  \"operators\": {\"computed\": %zu, \"views\": %zu, \"not_simulated\": %zu},\n", computed, views,
          missing);
  fprintf(out, "  \"allocations\": %zu,\n  \"devices\": [", allocations);
  for (size_t i = 0; i < live.size(); i++)
    fprintf(out, "%s{\"peak_bytes\": %zu, \"live_bytes\": %zu}", i ? ", " : "", peak[i], live[i]);
  fprintf(out, "],\n  \"phases\": {");
  for (int i = 0; i < PHASES; i++) {
    const auto &c = phases[i];
    fprintf(out,
            "%s\n    \"%s\": {\"launches\": %zu, \"kernels\": %zu, \"bytes\": %zu, \"to_device\": %zu, "
            "\"to_host\": %zu, \"waits\": %zu}",
            i ? "," : "", PHASE_NAMES[i], c.launches, c.kernels, c.bytes, c.to_device, c.to_host, c.waits);
  }
  fprintf(out, "\n  },\n");
  write_counts(out, "launches", launches);
  fprintf(out, ",\n");
  write_counts(out, "waits", waits);
  fprintf(out, ",\n");
  write_counts(out, "collectives", collectives);
  fprintf(out, ",\n");
  write_counts(out, "notes", notes);
  fprintf(out, "\n}\n");
}

void write_report() {
  auto &report = all();
  std::lock_guard<std::mutex> lock(report.mutex);
  if (report.trace) fflush(report.trace);
  if (settings().report.empty()) return;
  FILE *out = fopen(settings().report.c_str(), "w");
  if (!out) return perror("simulated CUDA: the report");
  report.write(out);
  fclose(out);
}

// nepa ends by quick_exit, Python by exit.
static const bool will_report = (all(), atexit(write_report) == 0 && at_quick_exit(write_report) == 0);

} // namespace simulated
