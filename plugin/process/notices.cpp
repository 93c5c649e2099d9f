#include "plugin/process/notices.h"

#include <cstdio>
#include <mutex>
#include <utility>

#include "plugin/process/fork_local.h"

namespace moetap::plugin {
namespace {

struct HandlerLock {
  std::mutex mutex;
};

std::mutex& handler_mutex() {
  return fork_local<HandlerLock>().mutex;
}

// Never destroyed: sessions may close while the process exits.
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
    // A handler that throws must not stop the model: the line goes to stderr.
  }
  std::fprintf(stderr, "moetap: %s\n", line.c_str());
}

void set_notice_handler(NoticeHandler handler) {
  const std::lock_guard<std::mutex> lock(handler_mutex());
  current_handler() = std::move(handler);
}

}  // namespace moetap::plugin
