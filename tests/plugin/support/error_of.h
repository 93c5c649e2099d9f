#pragma once

#include <functional>
#include <stdexcept>
#include <string>

namespace moetap::plugin {

/// The message of the std::runtime_error that `call` throws; empty if it throws nothing. Other errors pass through.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace moetap::plugin
