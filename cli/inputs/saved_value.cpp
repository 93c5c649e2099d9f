#include "cli/inputs/saved_value.h"

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <torch/csrc/jit/serialization/unpickler.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "cli/inputs/python_pickle.h"
#include "cli/inputs/zip_archive.h"
#include "cli/terminal/command_error.h"
#include "plugin/process/error_text.h"

namespace moetap::cli {
namespace {

constexpr const char* kExpected = "expected a .pt file that torch.save wrote of a dict or a tuple";

constexpr int64_t kMostExpandedBytes = int64_t{1} << 32;

/// Bytes of each record that tensors were made of, by where it lies.
using RecordBytes = std::unordered_map<const void*, size_t>;

/// The pickle says where in a record a tensor lies, and the Unpickler believes it.
void check_lies_in_its_record(const at::Tensor& tensor, const RecordBytes& records) {
  if (tensor.layout() != c10::kStrided || !tensor.has_storage()) throw std::runtime_error("it holds a sparse tensor");
  __int128 last = tensor.storage_offset();
  __int128 elements = 1;
  bool is_empty = false, fits = last >= 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    const int64_t size = tensor.sizes()[static_cast<size_t>(i)], stride = tensor.strides()[static_cast<size_t>(i)];
    fits = fits && size >= 0 && stride >= 0;
    is_empty = is_empty || size == 0;
    if (elements < kMostExpandedBytes) elements *= size;
    last += static_cast<__int128>(size - 1) * stride;
  }
  const auto record = records.find(tensor.storage().data());
  const size_t bytes = record == records.end() ? 0 : record->second;
  if (!fits || (!is_empty && (last + 1) * static_cast<__int128>(tensor.itemsize()) > static_cast<__int128>(bytes))) {
    throw std::runtime_error("it holds a tensor that is larger than its record");
  }
  const __int128 whole = elements * static_cast<__int128>(tensor.itemsize());
  if (whole > static_cast<__int128>(bytes) && whole > kMostExpandedBytes) {
    throw std::runtime_error("it holds a tensor that repeats a small record to over 4 GiB");
  }
}

void check_tensors(const c10::IValue& value, const RecordBytes& records) {
  value.visit([&](const c10::IValue& part) {
    if (part.isTensor() && part.toTensor().defined()) check_lies_in_its_record(part.toTensor(), records);
    return false;
  });
}

/// As torch::jit::pickle_load, which cannot read all that Python writes (python_pickle.h).
c10::IValue unpickle(const std::string& path) {
  caffe2::serialize::PyTorchStreamReader archive(path);
  const auto [data, size] = archive.getRecord("data.pkl");
  const std::string pickle = for_unpickler({static_cast<const char*>(data.get()), size});
  // The Unpickler looks into the parts of these when it makes them, before they are known to lie in their records.
  for (const char* kind : {"_rebuild_sparse", "_rebuild_qtensor"}) {
    if (pickle.find(kind) != std::string::npos) throw std::runtime_error("it holds a sparse or a quantised tensor");
  }
  size_t position = 0;
  const auto read = [&](char* buffer, size_t length) {
    length = std::min(length, pickle.size() - position);
    std::memcpy(buffer, pickle.data() + position, length);
    position += length;
    return length;
  };
  RecordBytes records;
  const auto read_record = [&](const std::string& name) {
    auto [record, bytes] = archive.getRecord("data/" + name);
    records[record.get()] = bytes;
    return std::move(record);
  };
  c10::IValue value = torch::jit::Unpickler(read, nullptr, nullptr, read_record, c10::Device(c10::kCPU)).parse_ivalue();
  check_tensors(value, records);
  return value;
}

}  // namespace

c10::IValue read_saved_value(const std::string& path) {
  check_is_zip_archive(path, "not what torch.save writes", kExpected);
  try {
    check_records_are_stored(path);
    return unpickle(path);
  } catch (const std::exception& error) {
    throw CommandError(
        fmt::format("{}: cannot be read ({}); save a dict or a tuple of tensors, numbers, text, lists, tuples and "
                    "dicts with torch.save",
                    path, plugin::one_line(error)));
  }
}

}  // namespace moetap::cli
