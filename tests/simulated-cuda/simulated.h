// What the parts of the simulated CUDA share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <torch/library.h>

#include <string>
#include <vector>

namespace simulated {

using at::Tensor;
using c10::Device;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::Storage;
using Stack = std::vector<IValue>;

// ---- settings.cpp: the environment, read once ----

struct Settings {
  std::vector<int> gpus; // those that the program sees, by their number in the machine
  size_t bytes;          // the memory of each
  size_t last;           // so many allocations succeed, and none after them
  size_t lost;           // so many launches succeed, and no call of the device after them
  bool poison;           // new memory is NaN
  bool dry;              // kernels only allocate
  bool silent_peers;     // collectives wait for lost processes
  size_t lag;            // launches after which an event of the device is reached
  std::string report;    // files to write, or ""
  std::string trace;
};

const Settings &settings();

// ---- report.cpp: what the program did ----

enum class Event { LAUNCH, TO_DEVICE, TO_HOST, WAIT, COLLECTIVE };

struct Cost {
  size_t kernels = 0, bytes = 0;
  bool waits = false; // the host stands still until the device is done
};

void record(Event event, const std::string &what, Cost cost, const std::vector<Tensor> &tensors = {});

// Calls of operators until now.
size_t launches_so_far();

// The error that every call gives when the device is lost.
void check_not_lost();

// Counts something that deserves a look, such as a CPU number given to a kernel.
void note(const std::string &what);

// How many operators are computed, are views, and are not simulated.
void registered(size_t computed, size_t views, size_t missing);

// What all blocks of a device hold together, after a change; for the peak.
void holds(int device, size_t bytes);

// What they hold, and the most that they have held.
c10::CachingAllocator::Stat held(int device);

void write_report();

// ---- copies.cpp: copies between the device and pinned memory that do not block ----

void begin_copy_to_device(const void *host, size_t bytes, void *shadow); // after its bytes have been written
void begin_copy_to_host(void *host, size_t bytes); // after its bytes have been written
void finish_copies();                              // the host has waited
void finish_copies_of(const void *block, size_t bytes); // which is freed
size_t copies_begun();
void finish_copies_up_to(size_t number); // of those begun
void finish_uploads_up_to(size_t number); // the stream that computes waits for them

// ---- memory.cpp: device memory and its shadow ----

extern thread_local int current_device;

// Of each device. One other stands for all that the program makes: it is for copies alone.
enum Streams { COMPUTE_STREAM = 0, OTHER_STREAM = 1 };
extern thread_local int current_stream;
void used_by_another_stream(const void *device); // a block, after the stream that it was made on

c10::Allocator *device_allocator();
c10::Allocator *pinned_allocator();
c10::Allocator *host_allocator();
bool is_pinned(const void *data);
void copied_by_device(const void *pinned); // from or to it, without waiting

// Where the bytes of a device address are, and back.
void *shadow_of(const void *device);

// Makes the memory of a kernel's result that of a device; copies it where the kernel had it from elsewhere.
c10::DataPtr taken_over(const Storage &host, int device);

// While one lives, this thread runs a kernel: what the CPU allocates then is device memory.
struct InKernel {
  InKernel();
  ~InKernel();
};

// ---- bridge.cpp: tensors of the device as the CPU's, and back ----

class Bridge {
public:
  enum Kind { COMPUTES, SIZES_ONLY }; // as tensors of the CPU; of the meta device

  explicit Bridge(int device, Kind kind = COMPUTES) : device(device), kind(kind) {}

  Tensor to_host(const Tensor &t);
  Tensor to_device(const Tensor &t);

  // Gives back what a kernel did to its arguments beside their bytes: another size, other memory.
  void settle();

private:
  Storage host_storage(const Storage &own);

  int device;
  Kind kind;
  std::vector<std::pair<Tensor, Tensor>> tensors;    // the device's, the host's
  std::vector<std::pair<Storage, Storage>> storages; // likewise
};

// Every tensor in a value, and a value with every tensor replaced.
std::vector<Tensor> tensors_of(const IValue &value);
template <class F> IValue mapped(const IValue &value, F f);

// ---- dry.cpp ----

// Replaces the arguments on the stack by results that are only allocated; false where that is not known to be right.
bool without_computing(const c10::OperatorHandle &op, const std::string &name, Stack *stack, int device);

// ---- tensors.cpp, libraries.cpp: operators with kernels of their own ----

using Own = std::vector<std::string>; // the names of those that are registered
void register_tensors(torch::Library &library, Own &own);
void register_libraries(torch::Library &library, Own &own);

} // namespace simulated
