#include "plugin/notices.h"

#include <cstdio>
#include <mutex>
#include <utility>

namespace moetap::plugin {
namespace {

// Never destroyed: sessions may close while the process exits.
std::mutex& handler_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
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
