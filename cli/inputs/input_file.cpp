#include "cli/inputs/input_file.h"

#include <fmt/format.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "cli/terminal/command_error.h"
#include "plugin/formats/safetensors.h"
#include "plugin/formats/whole_file.h"
#include "plugin/process/error_text.h"

namespace moetap::cli {
namespace {

enum class InputFormat { kSafetensors, kTorchSave, kUnknown };

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

/// The value with every tensor inside it moved to the device.
c10::IValue on_device(const c10::IValue& value, c10::Device device) {
  if (value.isTensor()) {
    return value.toTensor().defined() ? c10::IValue(value.toTensor().to(device)) : value;
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> moved;
    for (const at::Tensor& tensor : value.toTensorList()) {
      moved.push_back(tensor.to(device));
    }
    return moved;
  }
  if (value.isList()) {
    auto moved = c10::impl::GenericList(value.toList().elementType());
    for (const c10::IValue& element : value.toList()) {
      moved.push_back(on_device(element, device));
    }
    return moved;
  }
  if (value.isTuple()) {
    std::vector<c10::IValue> moved;
    for (const auto& element : value.toTupleRef().elements()) {
      moved.push_back(on_device(element, device));
    }
    return c10::ivalue::Tuple::create(std::move(moved));
  }
  if (value.isGenericDict()) {
    const auto dict = value.toGenericDict();
    auto moved = c10::impl::GenericDict(dict.keyType(), dict.valueType());
    for (const auto& entry : dict) {
      moved.insert(entry.key(), on_device(entry.value(), device));
    }
    return moved;
  }
  return value;
}

c10::IValue read_torch_save(const std::string& path) {
  const std::string bytes = plugin::read_whole_file(path);
  if (bytes.empty()) {
    throw CommandError(fmt::format("{}: is empty; {}", path, kFormats));
  }
  if (!bytes.starts_with("PK\x03\x04")) {
    throw CommandError(fmt::format("{}: not what torch.save writes (no zip archive); {}", path, kFormats));
  }
  try {
    return torch::jit::pickle_load({bytes.begin(), bytes.end()});
  } catch (const std::exception& error) {
    throw CommandError(fmt::format("{}: cannot be read ({}); save a dict or a tuple of tensors with torch.save", path,
                                   plugin::one_line(error)));
  }
}

ForwardArguments read_arguments(const std::string& path) {
  ForwardArguments arguments;
  if (format_of(path) == InputFormat::kSafetensors) {
    try {
      for (auto& [name, tensor] : plugin::read_safetensors(path).tensors) {
        arguments.named.emplace(name, tensor);
      }
    } catch (const std::exception& error) {
      const std::string line = plugin::one_line(error);
      throw CommandError(line.find(path) == std::string::npos ? fmt::format("{}: {}", path, line) : line);
    }
    return arguments;
  }
  const c10::IValue value = read_torch_save(path);
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      if (!entry.key().isString()) {
        throw CommandError(
            fmt::format("{}: keys must be argument names (text), got a key of type {}", path, entry.key().tagKind()));
      }
      arguments.named.emplace(entry.key().toStringRef(), entry.value());
    }
  } else if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    arguments.positional.assign(elements.begin(), elements.end());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toList()) {
      arguments.positional.push_back(element);
    }
  } else if (value.isTensor()) {
    arguments.positional.push_back(value);
  } else {
    throw CommandError(
        fmt::format("{}: holds a {}; save a dict or a tuple of tensors with torch.save", path, value.tagKind()));
  }
  return arguments;
}

void check_names(const std::string& path, const ForwardArguments& arguments, const c10::FunctionSchema& schema) {
  const size_t num_arguments = schema.arguments().size() - 1;
  if (arguments.positional.size() > num_arguments) {
    throw CommandError(fmt::format("{}: holds {} values, the method takes {}: {}", path, arguments.positional.size(),
                                   num_arguments, signature(schema)));
  }
  std::set<std::string> known;
  std::vector<std::string> missing;
  for (size_t i = 1; i <= num_arguments; ++i) {
    const auto& argument = schema.arguments()[i];
    known.insert(argument.name());
    const bool given = i <= arguments.positional.size() || arguments.named.count(argument.name()) > 0;
    if (!given && !argument.default_value()) {
      missing.push_back(argument.name());
    }
  }
  std::vector<std::string> unknown;
  for (const auto& [name, value] : arguments.named) {
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

ForwardArguments read_input_file(const std::string& path, const c10::FunctionSchema& schema, c10::Device device) {
  ForwardArguments arguments = read_arguments(path);
  check_names(path, arguments, schema);
  for (auto& value : arguments.positional) {
    value = on_device(value, device);
  }
  for (auto& [name, value] : arguments.named) {
    value = on_device(value, device);
  }
  return arguments;
}

}  // namespace moetap::cli
