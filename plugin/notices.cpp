#include "plugin/notices.h"

#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <utility>

namespace moetap::plugin {
namespace {

// Never destroyed: sessions may close while the process exits. A child that was forked gets its own: a thread of the
// parent may have held it.
std::mutex& handler_mutex() {
  static std::atomic<std::mutex*> mutex = new std::mutex;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { mutex.store(new std::mutex); });
  static_cast<void>(registered);
  return *mutex.load();
}

NoticeHandler& current_handler() {
  static auto* handler = new NoticeHandler;
  return *handler;
}

}  // namespace

void notify(const std::string& line) noexcept {
  try {
    const std::lock_guard<std::mutex> lock(handler_mutex());
    if (const auto& handler = current_handler()) {
      handler(line);
      return;
    }
  } catch (...) {
    // A handler that fails must not stop the model; the line goes to stderr.
  }
  std::fprintf(stderr, "moetap: %s\n", line.c_str());
}

void set_notice_handler(NoticeHandler handler) {
  const std::lock_guard<std::mutex> lock(handler_mutex());
  current_handler() = std::move(handler);
}

}  // namespace moetap::plugin
