#include "plugin/formats/safetensors.h"

#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/random_access_file.h"
#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kLengthBytes = sizeof(uint64_t);
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library

at::Tensor read_tensor(const RandomAccessFile& file, int64_t data_begin, const SafetensorsEntry& entry) {
  at::Tensor tensor;
  try {
    tensor = at::empty(entry.shape, at::TensorOptions().dtype(entry.dtype));
  } catch (const std::exception&) {
    throw std::runtime_error(
        c10::str("tensor \"", entry.name, "\": no memory for ", entry.end - entry.begin, " bytes"));
  }
  file.read(data_begin + entry.begin, tensor.data_ptr(), entry.end - entry.begin);
  if (entry.dtype == at::kBool) {
    // Any other byte in a C++ bool is undefined behaviour wherever the tensor is used.
    const auto* bytes = static_cast<const unsigned char*>(tensor.data_ptr());
    const auto* wrong = std::find_if(bytes, bytes + tensor.numel(), [](unsigned char byte) { return byte > 1; });
    if (wrong != bytes + tensor.numel()) {
      throw std::runtime_error(
          c10::str("tensor \"", entry.name, "\": BOOL must hold bytes 0 and 1, got ", static_cast<int>(*wrong)));
    }
  }
  return tensor;
}

SafetensorsFile read_open_file(const RandomAccessFile& file) {
  if (file.size_bytes() < kLengthBytes) {
    throw std::runtime_error(
        c10::str("expected the 8 bytes of the header's length, the file holds ", file.size_bytes()));
  }
  uint64_t header_bytes = 0;
  file.read(0, &header_bytes, kLengthBytes);
  if (header_bytes > static_cast<uint64_t>(kMaxHeaderBytes)) {
    throw std::runtime_error(c10::str("a header of ", header_bytes, " bytes is longer than ", kMaxHeaderBytes,
                                      " (is this a safetensors file?)"));
  }
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(header_bytes);
  if (data_begin > file.size_bytes()) {
    throw std::runtime_error(c10::str("the header needs ", header_bytes, " bytes, the file holds ",
                                      file.size_bytes() - kLengthBytes, " after its length (truncated?)"));
  }
  std::string json(header_bytes, '\0');
  file.read(kLengthBytes, json.data(), static_cast<int64_t>(header_bytes));
  SafetensorsHeader header = parse_safetensors_header(json, file.size_bytes() - data_begin);

  SafetensorsFile result;
  for (const SafetensorsEntry& entry : header.entries) {
    result.tensors.emplace(entry.name, read_tensor(file, data_begin, entry));
  }
  result.metadata = std::move(header.metadata);
  return result;
}

}  // namespace

SafetensorsFile read_safetensors(const std::string& path) {
  const RandomAccessFile file(path);
  try {
    return read_open_file(file);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

void write_safetensors(const std::string& path, const SafetensorsFile& file, AtomicFile::Readers readers) {
  struct Named {
    std::string name;
    at::Tensor tensor;
  };
  std::vector<Named> ordered;
  for (const auto& [name, tensor] : file.tensors) {
    if (safetensors_dtype_name(tensor.scalar_type()) == nullptr) {
      throw std::runtime_error(c10::str("cannot write ", path, ": tensor \"", name, "\": safetensors has no dtype for ",
                                        tensor.scalar_type()));
    }
    ordered.push_back({name, tensor});
  }
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const Named& a, const Named& b) { return a.tensor.element_size() > b.tensor.element_size(); });

  SafetensorsHeader header;
  header.metadata = file.metadata;
  int64_t end = 0;
  for (const Named& item : ordered) {
    const int64_t begin = end;
    end += static_cast<int64_t>(item.tensor.nbytes());
    header.entries.push_back({item.name, item.tensor.scalar_type(), item.tensor.sizes().vec(), begin, end});
  }
  AtomicFile output(path, readers);
  output.write(serialize_safetensors_header(header));
  for (const Named& item : ordered) {
    const at::Tensor data = item.tensor.detach().cpu().contiguous();
    output.write({static_cast<const char*>(data.data_ptr()), data.nbytes()});
  }
  output.commit();
}

}  // namespace moetap::plugin
