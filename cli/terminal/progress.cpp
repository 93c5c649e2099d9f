#include "cli/terminal/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace moetap::cli {
namespace {

constexpr auto kRedrawInterval = std::chrono::milliseconds(100);
constexpr int64_t kBarWidth = 30;

}  // namespace

Progress::Progress(std::string unit, int64_t total)
    : unit_(std::move(unit)),
      total_(total),
      on_terminal_(isatty(STDERR_FILENO) == 1),
      started_(std::chrono::steady_clock::now()),
      last_drawn_(started_ - kRedrawInterval) {
  draw();
}

Progress::~Progress() {
  clear();
}

void Progress::advance() {
  ++done_;
  draw();
}

void Progress::clear() {
  if (drawn_) {
    fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
    drawn_ = false;
  }
}

void Progress::draw() {
  const auto now = std::chrono::steady_clock::now();
  if (!on_terminal_ || (now - last_drawn_ < kRedrawInterval && done_ < total_)) {
    return;
  }
  last_drawn_ = now;
  drawn_ = true;
  const double elapsed_s = std::chrono::duration<double>(now - started_).count();
  const auto filled = static_cast<size_t>(total_ == 0 ? kBarWidth : kBarWidth * done_ / total_);
  std::string left;
  if (done_ > 0) {
    left = fmt::format("  {:.1f}/s  {:.0f} s left", static_cast<double>(done_) / std::max(elapsed_s, 1e-3),
                       elapsed_s / static_cast<double>(done_) * static_cast<double>(total_ - done_));
  }
  fmt::print(stderr, "\r[{:<{}}] {}/{} {}{}\x1b[K", std::string(filled, '#'), kBarWidth, done_, total_, unit_, left);
  std::fflush(stderr);
}

}  // namespace moetap::cli
