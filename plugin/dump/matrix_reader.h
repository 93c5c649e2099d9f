#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/dump/matrix_frames.h"
#include "plugin/formats/random_access_file.h"
#include "plugin/formats/safetensors_header.h"

namespace moetap::plugin {

/// Reads the attention matrices of one rank (Note [Attention in full]) in any order. Keeps the header of one shard a
/// series. Used by one thread; blocks on the disk. Errors are std::runtime_error with one line that names the file.
class MatrixReader {
 public:
  /// What is wrong with a shard goes to `damage`, one line each; its matrices are missing.
  MatrixReader(const std::string& folder, std::vector<std::string>& damage);

  /// Matrices of a series up to the end of its last whole shard; 0: there is no such series.
  int64_t num_matrices(const std::string& series) const;
  /// Matrices [begin, begin + number) of a series; without those that lie in no whole shard.
  std::vector<AttentionMatrix> read(const std::string& series, int64_t begin, int64_t number);

 private:
  struct Shard {
    std::string path;
    int64_t first = 0, number = 0;
  };
  struct Series {
    std::vector<Shard> shards;  // ascending
    const Shard* open = nullptr;
    std::unique_ptr<RandomAccessFile> file;
    SafetensorsHeader header;
    int64_t data_begin = 0;
  };
  std::map<std::string, Series> series_;
};

}  // namespace moetap::plugin
