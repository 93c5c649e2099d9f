#include "plugin/notices.h"

#include <cstdio>
#include <mutex>
#include <utility>

#include "plugin/per_process.h"

namespace moetap::plugin {
namespace {

struct HandlerMutex {
  std::mutex mutex;
};

std::mutex& handler_mutex() {
  return PerProcess<HandlerMutex>::get().mutex;
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
