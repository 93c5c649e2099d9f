#pragma once

#include <functional>
#include <stdexcept>
#include <string>

namespace moetap::plugin {

/// The message of the Error that `call` throws; empty if it throws nothing. Other errors pass through.
template <typename Error = std::runtime_error>
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace moetap::plugin
