#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "plugin/formats/atomic_file.h"

namespace moetap::plugin {

struct SafetensorsFile {
  std::map<std::string, at::Tensor> tensors;  // CPU, contiguous
  std::map<std::string, std::string> metadata;
};

/// Reads a whole safetensors file. The file may come from anywhere: whatever is wrong with it (not a file, truncated,
/// header longer than the file or than 100 MB, not JSON, names twice, unknown dtypes, sizes that overflow, overlap,
/// leave gaps or do not fit the shape) is a std::runtime_error of one line that names the file, the tensor, what was
/// expected and what was there. Blocks.
SafetensorsFile read_safetensors(const std::string& path);

/// Writes a safetensors file that appears whole or not at all (AtomicFile). Tensors of any device and strides; the
/// largest elements come first, so that every tensor is aligned to its element size. Throws std::runtime_error if the
/// file cannot be written or the format lacks a dtype.
void write_safetensors(const std::string& path, const SafetensorsFile& file,
                       AtomicFile::Readers readers = AtomicFile::Readers::kAll);

}  // namespace moetap::plugin
