#include "cli/terminal/held_notices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "plugin/process/notices.h"

namespace moetap::cli {

HeldNotices::HeldNotices() {
  plugin::set_notice_handler([this](const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
  });
}

HeldNotices::~HeldNotices() {
  plugin::set_notice_handler(nullptr);
}

std::string HeldNotices::first_that_begins(const std::string& text) const {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(lines_.begin(), lines_.end(), [&](const std::string& line) { return line.starts_with(text); });
  return found == lines_.end() ? "" : *found;
}

void HeldNotices::print() const {
  const std::lock_guard lock(mutex_);
  std::fflush(stdout);
  for (const auto& line : lines_) {
    fmt::print(stderr, "moetap: {}\n", line);
  }
}

}  // namespace moetap::cli
