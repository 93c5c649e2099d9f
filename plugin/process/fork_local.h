#pragma once

#include <pthread.h>

#include <atomic>

namespace moetap::plugin {

/// The one T of this process, made when first asked for and never destroyed, since forwards may run while the process
/// exits. A child process that was forked has a new one: in its copy of the parent's another thread may have held the
/// lock, for ever. It keeps that copy, unused, so that it is no leak. T must be of an unnamed namespace: else two
/// copies of the library in one process would share it.
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
