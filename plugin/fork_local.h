#pragma once

#include <pthread.h>

#include <atomic>

namespace moetap::plugin {

/// The one T of this process, made when first asked for and never destroyed, since forwards may run while the process
/// exits. A child process that was forked has a new one: in its copy of the parent's another thread may have held the
/// lock, for ever. T must be of an unnamed namespace: else two copies of the library in one process would share it.
template <typename T>
T& fork_local() {
  static std::atomic<T*> value = new T();
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { value.store(new T()); });
  static_cast<void>(registered);
  return *value.load();
}

}  // namespace moetap::plugin
