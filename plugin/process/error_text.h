#pragma once

#include <exception>
#include <string>

namespace moetap::plugin {

/// The first line of an error's message, without LibTorch's backtrace.
std::string one_line(const std::exception& error);

}  // namespace moetap::plugin
