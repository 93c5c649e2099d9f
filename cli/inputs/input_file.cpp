#include "cli/inputs/input_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <unordered_map>

#include "cli/inputs/argument_value.h"
#include "cli/inputs/saved_value.h"
#include "cli/terminal/command_error.h"
#include "plugin/formats/safetensors.h"
#include "plugin/process/error_text.h"

namespace moetap::cli {
namespace {

enum class InputFormat { kSafetensors, kTorchSave, kUnknown };

/// What a file holds, before it is known whether it fits the method.
struct GivenValues {
  std::vector<c10::IValue> positional;
  std::unordered_map<std::string, c10::IValue> named;
};

constexpr const char* kFormats =
    "an input is a .safetensors file, or a .pt file that torch.save wrote of a dict or a tuple";

InputFormat format_of(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".safetensors") {
    return InputFormat::kSafetensors;
  }
  return extension == ".pt" || extension == ".pth" ? InputFormat::kTorchSave : InputFormat::kUnknown;
}

std::string signature(const c10::FunctionSchema& schema) {
  std::string text;
  for (size_t i = 1; i < schema.arguments().size(); ++i) {
    const auto& argument = schema.arguments()[i];
    text += fmt::format("{}{}: {}{}", text.empty() ? "" : ", ", argument.name(), argument.type()->repr_str(),
                        argument.default_value() ? " = default" : "");
  }
  return fmt::format("{}({})", schema.name(), text);
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) {
    text += fmt::format("{}\"{}\"", text.empty() ? "" : ", ", name);
  }
  return text;
}

GivenValues read_values(const std::string& path) {
  GivenValues given;
  if (format_of(path) == InputFormat::kSafetensors) {
    try {
      for (auto& [name, tensor] : plugin::read_safetensors(path).tensors) {
        given.named.emplace(name, tensor);
      }
    } catch (const std::exception& error) {
      const std::string line = plugin::one_line(error);
      throw CommandError(line.find(path) == std::string::npos ? fmt::format("{}: {}", path, line) : line);
    }
    return given;
  }
  const c10::IValue value = read_saved_value(path);
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      if (!entry.key().isString()) {
        throw CommandError(
            fmt::format("{}: keys must be argument names (text), got a key of type {}", path, entry.key().tagKind()));
      }
      given.named.emplace(entry.key().toStringRef(), entry.value());
    }
  } else if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    given.positional.assign(elements.begin(), elements.end());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toList()) {
      given.positional.push_back(element);
    }
  } else if (value.isTensor()) {
    given.positional.push_back(value);
  } else {
    throw CommandError(
        fmt::format("{}: holds a {}; save a dict or a tuple of tensors with torch.save", path, value.tagKind()));
  }
  return given;
}

void check_names(const std::string& path, const GivenValues& given, const c10::FunctionSchema& schema) {
  const size_t num_arguments = schema.arguments().size() - 1;
  if (given.positional.size() > num_arguments) {
    throw CommandError(fmt::format("{}: holds {} values, the method takes {}: {}", path, given.positional.size(),
                                   num_arguments, signature(schema)));
  }
  std::set<std::string> known;
  std::vector<std::string> missing;
  for (size_t i = 1; i <= num_arguments; ++i) {
    const auto& argument = schema.arguments()[i];
    known.insert(argument.name());
    const bool is_given = i <= given.positional.size() || given.named.count(argument.name()) > 0;
    if (!is_given && !argument.default_value()) {
      missing.push_back(argument.name());
    }
  }
  std::vector<std::string> unknown;
  for (const auto& [name, value] : given.named) {
    if (known.count(name) == 0) {
      unknown.push_back(name);
    }
  }
  std::sort(unknown.begin(), unknown.end());
  if (unknown.empty() && missing.empty()) {
    return;
  }
  std::string wrong = unknown.empty() ? "" : fmt::format("{} is no argument of the method", join(unknown));
  if (!missing.empty()) {
    wrong += fmt::format("{}{} is missing", wrong.empty() ? "" : ", ", join(missing));
  }
  throw CommandError(fmt::format("{}: {}; the method is {}", path, wrong, signature(schema)));
}

}  // namespace

std::vector<std::string> list_input_files(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const auto& path : paths) {
    std::error_code error;
    const auto status = fs::status(path, error);
    if (!fs::exists(status)) {
      throw CommandError(fmt::format("{}: no such input file or directory", path));
    }
    if (!fs::is_directory(status)) {
      if (format_of(path) == InputFormat::kUnknown) {
        throw CommandError(fmt::format("{}: unknown kind of input; {}", path, kFormats));
      }
      files.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    for (auto entry = fs::directory_iterator(path, error); !error && entry != fs::directory_iterator();
         entry.increment(error)) {
      if (format_of(entry->path()) != InputFormat::kUnknown && entry->is_regular_file(error)) {
        found.push_back(entry->path().string());
      }
    }
    if (error) {
      throw CommandError(fmt::format("{}: cannot be listed ({})", path, error.message()));
    }
    if (found.empty()) {
      throw CommandError(fmt::format("{}: the directory holds no input; {}", path, kFormats));
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

std::vector<c10::IValue> read_input_file(const std::string& path, const c10::FunctionSchema& schema,
                                         c10::Device device) {
  const GivenValues given = read_values(path);
  check_names(path, given, schema);
  std::vector<c10::IValue> values;
  for (size_t i = 1; i < schema.arguments().size(); ++i) {  // after `self`
    const c10::Argument& argument = schema.arguments()[i];
    const auto named = given.named.find(argument.name());
    const c10::IValue* value = i <= given.positional.size() ? &given.positional[i - 1]
                               : named != given.named.end() ? &named->second
                                                            : nullptr;
    try {
      values.push_back(value != nullptr ? argument_value(*value, argument, device) : *argument.default_value());
    } catch (const ArgumentError& error) {
      throw CommandError(fmt::format("{}: {}; the method is {}", path, error.what(), signature(schema)));
    }
  }
  return values;
}

}  // namespace moetap::cli
