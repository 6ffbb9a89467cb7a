// What libtorch asks the CUDA library about itself: its devices, its streams, its memory.

#include "simulated.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <utility>

namespace simulated {

// A place in the work that was given to the device. The device reaches it after so many launches more, or when the host
// waits for it: then it has nothing else to do.
struct RecordedEvent {
  size_t launches, copies;
  bool is_reached() const { return launches_so_far() >= launches + settings().lag; }
};

// Everything is done before the call returns, but copies (copies.cpp): streams tell who has to wait for those.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return Device(DeviceType::CUDA, current_device); }
  Device exchangeDevice(Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.is_cuda(), "expected a CUDA device, found ", device);
    TORCH_CHECK(device.index() < deviceCount(), "CUDA error: invalid device ordinal");
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.has_index()) current_device = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return settings().gpus.size(); }

  c10::Stream getStream(Device device) const override {
    return stream(device, current_stream);
  }
  c10::Stream getDefaultStream(Device device) const override { return stream(device, COMPUTE_STREAM); }
  c10::Stream getStreamFromGlobalPool(Device device, bool) const override { return stream(device, OTHER_STREAM); }
  c10::Stream getNewStream(Device device, int) const override { return stream(device, OTHER_STREAM); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = getStream(stream.device());
    current_stream = stream.id();
    return before;
  }
  c10::Stream stream(Device device, int id) const {
    return c10::Stream(c10::Stream::UNSAFE, device.has_index() ? device : getDevice(), id);
  }

  void record(void **event, const c10::Stream &, const c10::DeviceIndex, const c10::EventFlag) const override {
    check_not_lost();
    auto *&recorded = reinterpret_cast<RecordedEvent *&>(*event);
    if (!recorded) recorded = new RecordedEvent();
    *recorded = {launches_so_far(), copies_begun()};
  }
  void destroyEvent(void *event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<RecordedEvent *>(event);
  }
  void block(void *event, const c10::Stream &stream) const override {
    auto *recorded = static_cast<RecordedEvent *>(event);
    if (recorded && stream.id() == COMPUTE_STREAM) finish_uploads_up_to(recorded->copies);
  }
  bool queryEvent(void *event) const override {
    check_not_lost();
    auto *recorded = static_cast<RecordedEvent *>(event);
    if (!recorded) return true;
    if (!recorded->is_reached()) return false;
    finish_copies_up_to(recorded->copies);
    return true;
  }
  bool queryStream(const c10::Stream &) const override { return true; }
  void synchronizeStream(const c10::Stream &) const override { wait("synchronizeStream"); }
  void synchronizeEvent(void *event) const override {
    if (!queryEvent(event)) wait("synchronizeEvent");
  }
  void synchronizeDevice(const c10::DeviceIndex) const override { wait("synchronizeDevice"); }

  static void wait(const char *what) { simulated::record(Event::WAIT, what, {0, 0, true}); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}

  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return settings().gpus.size() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool hasCUDA() const override { return settings().gpus.size() > 0; }
  bool hasCUDART() const override { return true; }
  bool hasCuDNN() const override { return true; }
  bool hasCuSOLVER() const override { return true; }
  bool hasCuBLASLt() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
  long versionCuDNN() const override { return 91900; }
  long versionRuntimeCuDNN() const override { return 91900; }
  long versionCUDART() const override { return 13000; }
  std::string showConfig() const override { return "simulated CUDA"; }
  double batchnormMinEpsilonCuDNN() const override { return 1e-5; }

  int getNumGPUs() const override { return settings().gpus.size(); }
  c10::DeviceIndex deviceCount() const override { return settings().gpus.size(); }
  c10::DeviceIndex current_device() const override { return simulated::current_device; }
  c10::DeviceIndex getCurrentDevice() const override { return simulated::current_device; }
  void setCurrentDevice(c10::DeviceIndex index) const override { simulated::current_device = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(simulated::current_device, index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  c10::Device getDeviceFromPtr(void *) const override { return Device(DeviceType::CUDA, simulated::current_device); }
  void deviceSynchronize(c10::DeviceIndex) const override {
    Guard::wait("deviceSynchronize");
    // Of several processes each ends after this, without what is done at exit.
    if (getenv("RANK")) write_report();
  }

  bool isPinnedPtr(const void *data) const override { return is_pinned(data); }
  c10::Allocator *getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  c10::Allocator *getCUDADeviceAllocator() const override { return device_allocator(); }

  const at::Generator &getDefaultGenerator(c10::DeviceIndex) const override {
    static auto one = at::make_generator<at::CPUGeneratorImpl>();
    return one;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(); }
};

} // namespace simulated

namespace at {
// The name is the one that libtorch_cpu looks for.
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, simulated::Hooks)
} // namespace at
