#pragma once

#include <pthread.h>

#include <atomic>

namespace moetap::plugin {

/// One T a process: made when it is first asked for and never destroyed, since it may be used while the process exits.
/// A child that was forked starts with a fresh one: the parent's state goes on in the parent, one of whose threads may
/// have held a lock of it. The child keeps what it inherited and does not use it, so that it is no leak. Thread-safe.
template <typename T>
class PerProcess {
 public:
  static T& get() {
    static const int registered =
        pthread_atfork(nullptr, nullptr, [] { current().store(fresh(/*inherited=*/current().load())); });
    static_cast<void>(registered);
    return *current().load()->value;
  }

 private:
  struct Place {
    T* value;
    const Place* inherited;
  };

  static const Place* fresh(const Place* inherited) { return new Place{new T(), inherited}; }

  static std::atomic<const Place*>& current() {
    static std::atomic<const Place*> place = fresh(/*inherited=*/nullptr);
    return place;
  }
};

}  // namespace moetap::plugin
