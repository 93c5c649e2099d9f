#include "cli/inputs/saved_value.h"

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <torch/csrc/jit/serialization/unpickler.h>

#include <cstring>

#include "cli/inputs/python_pickle.h"
#include "cli/inputs/zip_archive.h"
#include "cli/terminal/command_error.h"
#include "plugin/process/error_text.h"

namespace moetap::cli {
namespace {

constexpr const char* kExpected = "expected a .pt file that torch.save wrote of a dict or a tuple";

/// As torch::jit::pickle_load, which cannot read all that Python writes (python_pickle.h).
c10::IValue unpickle(const std::string& path) {
  caffe2::serialize::PyTorchStreamReader archive(path);
  const auto [data, size] = archive.getRecord("data.pkl");
  const std::string pickle = for_unpickler({static_cast<const char*>(data.get()), size});
  size_t position = 0;
  const auto read = [&](char* buffer, size_t length) {
    length = std::min(length, pickle.size() - position);
    std::memcpy(buffer, pickle.data() + position, length);
    position += length;
    return length;
  };
  const auto read_record = [&](const std::string& name) { return std::get<0>(archive.getRecord("data/" + name)); };
  return torch::jit::Unpickler(read, nullptr, nullptr, read_record, c10::Device(c10::kCPU)).parse_ivalue();
}

}  // namespace

c10::IValue read_saved_value(const std::string& path) {
  check_is_zip_archive(path, "not what torch.save writes", kExpected);
  try {
    return unpickle(path);
  } catch (const std::exception& error) {
    throw CommandError(
        fmt::format("{}: cannot be read ({}); save a dict or a tuple of tensors, numbers, text, lists, tuples and "
                    "dicts with torch.save",
                    path, plugin::one_line(error)));
  }
}

}  // namespace moetap::cli
