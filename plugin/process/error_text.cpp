#include "plugin/process/error_text.h"

#include <c10/util/Exception.h>

#include <string_view>

namespace moetap::plugin {
namespace {

std::string first_line(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t start = text.find_first_not_of(kBlanks);
  if (start == std::string_view::npos) return "unknown error";
  text = text.substr(start);
  text = text.substr(0, text.find('\n'));
  return std::string(text.substr(0, text.find_last_not_of(kBlanks) + 1));
}

std::string_view last_line(std::string_view text) {
  return text.substr(text.find_last_of('\n', text.find_last_not_of("\n \t")) + 1);
}

}  // namespace

std::string one_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  if (text.find("Traceback of TorchScript") == std::string::npos) return first_line(text);
  constexpr std::string_view kCause = "RuntimeError: ";
  const size_t cause = text.rfind(kCause);
  return first_line(cause == std::string::npos ? last_line(text)
                                               : std::string_view(text).substr(cause + kCause.size()));
}

}  // namespace moetap::plugin
