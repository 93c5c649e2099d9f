#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moetap::plugin {

/// One tensor as the header of a safetensors file places it.
struct SafetensorsEntry {
  std::string name;
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the end of the header
  int64_t end = 0;    // bytes from the end of the header, exclusive
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their offsets
  std::map<std::string, std::string> metadata;
};

/// The name of a dtype in the format ("BF16"); nullptr if the format has none for it.
const char* safetensors_dtype_name(at::ScalarType dtype);

/// Reads the JSON text of a header and checks that the tensors fill `data_bytes` bytes exactly, without gap or overlap.
/// Throws std::runtime_error with one line that names the tensor, what was expected and what was found (not the file).
SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes);

/// The first bytes of a file up to its data: the length, the JSON text, spaces up to a multiple of 8 bytes.
std::string serialize_safetensors_header(const SafetensorsHeader& header);

}  // namespace moetap::plugin
