// libtorch as it is loaded: its folder, CUDA's library beside it, this thread's GPU.

#include "shim.h"

#include <ATen/ops/mm_ops.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

namespace {
void (*on_uncaught)(Fault *) = nullptr;
}

extern "C" {

// Tells `report` of an exception that nothing can catch: in a destructor, or in a thread of NCCL's. It gets the fault,
// and must end the process.
void nepa_on_uncaught(void (*report)(Fault *)) {
  on_uncaught = report;
  std::set_terminate([] {
    if (auto exception = std::current_exception()) on_uncaught(caught([&] { std::rethrow_exception(exception); }));
    std::abort();
  });
}

// The folder of the loaded libtorch with its last slash, to be freed; null where the system does not tell.
char *nepa_torch_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&at::_ops::mm::call), &info) || !info.dli_fname) return nullptr;
  std::string path(info.dli_fname);
  auto slash = path.rfind('/');
  return slash == std::string::npos ? nullptr : strdup(path.substr(0, slash + 1).c_str());
}

// Opens libtorch_cuda.so beside the loaded libtorch_cpu.so, so that one binary serves CPU and CUDA;
// its kernels register themselves. *found tells whether the file was there.
Fault *nepa_open_cuda(bool *found) {
  *found = false;
#ifdef __linux__
  return guarded([&] {
    std::unique_ptr<char, decltype(&std::free)> folder(nepa_torch_folder(), std::free);
    if (!folder) return;
    std::string path = std::string(folder.get()) + "libtorch_cuda.so";
    FILE *file = fopen(path.c_str(), "rb");
    if (!file) return;
    fclose(file);
    *found = true;
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  });
#else
  return nullptr;
#endif
}

// Makes a GPU that of this thread, for operations that do not name one.
Fault *nepa_set_cuda_device(int index) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    cuda.setDevice(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)));
  });
}
}
