#include "cli/terminal/command_error.h"

#include <c10/util/Exception.h>

#include <string_view>

namespace moetap::cli {
namespace {

/// The first line that is not blank, without the blanks around it.
std::string first_line(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t start = text.find_first_not_of(kBlanks);
  if (start == std::string_view::npos) {
    return "unknown error";
  }
  text = text.substr(start);
  text = text.substr(0, text.find('\n'));
  return std::string(text.substr(0, text.find_last_not_of(kBlanks) + 1));
}

}  // namespace

std::string useful_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  // An error inside a model reads: headline, traceback of the model's source, "RuntimeError: what was wrong".
  constexpr std::string_view kTraceback = "Traceback of TorchScript";
  if (text.find(kTraceback) != std::string::npos) {
    constexpr std::string_view kCause = "RuntimeError: ";
    const size_t cause = text.rfind(kCause);
    if (cause != std::string::npos) {
      return first_line(std::string_view(text).substr(cause + kCause.size()));
    }
    return first_line(std::string_view(text).substr(text.find_last_of('\n', text.find_last_not_of("\n \t")) + 1));
  }
  return first_line(text);
}

}  // namespace moetap::cli
