#include "cli/terminal/interrupt.h"

#include <csignal>

namespace moetap::cli {
namespace {

volatile std::sig_atomic_t stop_requested = 0;
struct sigaction previous_interrupt;
struct sigaction previous_terminate;

void request_stop(int) {
  stop_requested = 1;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  stop_requested = 0;
  struct sigaction action = {};
  action.sa_handler = request_stop;
  // RESETHAND: the second signal is not caught. RESTART: the write of a file is not cut short.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_interrupt);
  sigaction(SIGTERM, &action, &previous_terminate);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &previous_interrupt, nullptr);
  sigaction(SIGTERM, &previous_terminate, nullptr);
}

bool InterruptGuard::requested() const {
  return stop_requested != 0;
}

}  // namespace moetap::cli
