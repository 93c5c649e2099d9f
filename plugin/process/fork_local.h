#pragma once

#include <pthread.h>

#include <atomic>

namespace moetap::plugin {

/// The one T of this process. It is made at the first call and never destroyed, since forwards may run while the
/// process exits. A forked child gets a new T: another thread may have held a lock in the parent's, and in the child
/// nobody would release it. The child still points to its copy of the parent's T, so that leak checkers do not report
/// it. T must be declared in an unnamed namespace: otherwise two copies of the library in one process would share one
/// T. Thread-safe.
template <typename T>
T& fork_local() {
  struct Place {
    T value;
    const Place* inherited = nullptr;
  };
  static std::atomic<Place*> current = new Place();
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] {
    auto* own = new Place();
    own->inherited = current.load();
    current.store(own);
  });
  static_cast<void>(registered);
  return current.load()->value;
}

}  // namespace moetap::plugin
