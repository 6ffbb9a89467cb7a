// The store: keys and values that all processes see, and through which they find each other.

#include "c10d.h"

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>

namespace {
std::vector<uint8_t> bytes(const char *data, size_t length) {
  auto *first = reinterpret_cast<const uint8_t *>(data);
  return std::vector<uint8_t>(first, first + length);
}
} // namespace

extern "C" {

// Opens the store at host:port, trying for `timeout_ms`; each later request may take `patience_ms`. A `listen_fd` that
// is not negative is a socket that listens on that port: this process then serves the store on it.
Fault *nepa_store_open(const char *host, int port, int listen_fd, int64_t timeout_ms, int64_t patience_ms,
                       Store **store) {
  return guarded([&] {
    limit_log(3); // fatal lines
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(port);
    options.isServer = listen_fd >= 0;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    if (listen_fd >= 0) options.masterListenFd = listen_fd;
    c10::intrusive_ptr<c10d::Store> lasting = c10::make_intrusive<c10d::TCPStore>(host, options);
    lasting->setTimeout(Milliseconds(patience_ms));
    *store = new Store{lasting, c10::make_intrusive<c10d::PrefixStore>("nepa/", lasting)};
  });
}

// Keeps the keys of this start apart from those of earlier ones.
Fault *nepa_store_use_prefix(Store *store, const char *prefix) {
  return guarded([&] { store->start = c10::make_intrusive<c10d::PrefixStore>(prefix, store->lasting); });
}

// A second connection to the store, for another thread.
Fault *nepa_store_clone(Store *store, Store **clone) {
  return guarded([&] {
    auto lasting = store->lasting->clone();
    *clone = new Store{lasting, store->start->clone()};
  });
}

void nepa_store_free(Store *store) { delete store; }

Fault *nepa_store_set(Store *store, bool lasting, const char *key, const char *data, size_t length) {
  return guarded([&] { (lasting ? store->lasting : store->start)->set(key, bytes(data, length)); });
}

// Sets `key` where nothing is there yet.
Fault *nepa_store_set_if_absent(Store *store, const char *key, const char *data, size_t length) {
  return guarded([&] { store->start->compareSet(key, {}, bytes(data, length)); });
}

// The value of `key`, to be freed, or null where there is none; never waits.
Fault *nepa_store_get(Store *store, bool lasting, const char *key, char **data, size_t *length) {
  *data = nullptr;
  return guarded([&] {
    auto &from = lasting ? store->lasting : store->start;
    if (!from->check({key})) return;
    auto value = from->get(key);
    *length = value.size();
    *data = static_cast<char *>(std::malloc(value.size() + 1));
    std::copy(value.begin(), value.end(), *data);
  });
}
}
