#pragma once

#include <functional>
#include <string>

namespace moetap::plugin {

/// Receives one line for the user: what a session could not use, what it lost. Called from any thread, one call at a
/// time. It must not call `notify` or `set_notice_handler`: it is called with their lock held.
using NoticeHandler = std::function<void(const std::string& line)>;

/// Gives a line to the handler, or prints "moetap: LINE" on stderr where none is set. Never throws. Thread-safe.
void notify(const std::string& line) noexcept;

/// Sets where the lines of this process go, for hosts with a log of their own; an empty handler gives them back to
/// stderr. Thread-safe.
void set_notice_handler(NoticeHandler handler);

}  // namespace moetap::plugin
