#pragma once

#include <exception>
#include <string>

namespace moetap::plugin {

/// What an error says, on one line without blanks around it: the first line of its message, without LibTorch's
/// backtrace. An error inside a TorchScript model reads "headline, traceback of the model's source, RuntimeError: what
/// was wrong": of it, what was wrong.
std::string one_line(const std::exception& error);

}  // namespace moetap::plugin
