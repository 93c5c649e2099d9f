#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "plugin/dump/matrix_frames.h"
#include "plugin/formats/frame_log.h"

namespace moetap::plugin {

/// The shards of the attention of one component: DUMP_FOLDER/NAME-000000.safetensors, ... with a tensor a matrix. Used
/// by one thread. Errors are std::runtime_error with one line.
///
/// Matrices are appended to a file of frames in the journal, JOURNAL_FOLDER/NAME-000000.matrices: a frame with the
/// metadata (kMatricesBegun), then one for each matrix (kMatrix). They become a shard only in `settle` and `finish`, so
/// that no shard holds a matrix of a forward that the journal does not hold yet.
class AttentionSeries {
 public:
  struct Place {
    std::string dump_folder;
    std::string journal_folder;
    std::string name;  // COMPONENT.attention
    int64_t rank = 0;
    int64_t max_shard_bytes = 0;
  };
  using Metadata = std::map<std::string, std::string>;
  explicit AttentionSeries(Place place) : place_(std::move(place)) {}

  /// Appends the matrices of one forward. `metadata`: of the shard, besides rank and first_row. Other metadata, or a
  /// name that the open shard holds already, begins a new one.
  void append(const std::vector<AttentionMatrix>& matrices, const Metadata& metadata);

  /// Number of matrices so far, in shards and in the journal.
  int64_t num_matrices() const { return num_matrices_; }

  void settle();  // writes the shards that are full
  void sync();
  void finish();  // writes all matrices into shards

  /// Names of the series that have files in one of the folders, and whether a file in DUMP_FOLDER is a shard of one.
  static std::set<std::string> names_in(const std::string& dump_folder, const std::string& journal_folder);
  static bool is_name(const std::string& series);

  /// Finds what a killed process left of this series. Returns the number of matrices from the first one to the first
  /// gap. `cut` must follow.
  int64_t restore();
  /// Continues after the first `num_matrices`; removes later ones, also from finished shards. Returns how many of the
  /// first `num_matrices` are missing.
  int64_t cut(int64_t num_matrices);

 private:
  /// The matrices of one shard, in the journal.
  struct Piece {
    int64_t number = 0;        // of the shard
    int64_t first_matrix = 0;  // in the series
    int64_t num_matrices = 0;
    int64_t bytes = 0;
    Metadata metadata = {};
    std::set<std::string> names = {};
    std::unique_ptr<FrameLog> frames = {};  // null: a finished shard
  };

  void begin_piece(const Metadata& metadata);
  void make_shard(Piece& piece);
  std::unique_ptr<Piece> reopen(const std::string& path, int64_t number) const;
  void keep(Piece& piece, int64_t num_matrices) const;
  void cut_shard(const Piece& piece, int64_t num_matrices) const;
  std::string shard_path(int64_t number) const;
  std::string frames_path(int64_t number) const;

  Place place_;
  int64_t next_number_ = 0;
  int64_t num_matrices_ = 0;
  std::vector<std::unique_ptr<Piece>> full_;  // in order
  std::unique_ptr<Piece> open_;               // null: none
  std::map<int64_t, std::unique_ptr<Piece>> restored_;
};

}  // namespace moetap::plugin
