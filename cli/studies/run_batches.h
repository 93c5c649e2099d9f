#pragma once

#include <memory>
#include <vector>

#include "cli/studies/run_source.h"

namespace moetap::cli {

/// Reads a run's tokens for one thread, in the order of the tokens or by samples. Tokens that lie close together in the
/// dump are read at once.
class RunBatches : public TokenReader {
 public:
  RunBatches(const RunSource& source, uint32_t needs);

  studies::TokenBatch& read(studies::Order order, int64_t first, int64_t n) override;
  /// The same for tokens by number, in any order.
  studies::TokenBatch& read_tokens(const std::vector<int64_t>& tokens);
  /// The same, where only one layer is filled.
  studies::TokenBatch& read_layer_of(const std::vector<int64_t>& tokens, size_t layer);
  /// A column of reals of these tokens, [n, width].
  void read_column_of(const std::vector<int64_t>& tokens, size_t layer, const char* what, int64_t width,
                      std::vector<float>& out);

 private:
  /// Tokens [first, first + n) of the dump, of which some are wanted.
  struct Segment {
    size_t dump = 0;
    int64_t first = 0, n = 0;     // in the dump
    std::vector<int64_t> wanted;  // places in the segment; empty: all of them
    std::vector<size_t> places;   // of the batch, as `wanted`
    size_t place = 0;             // of the batch, if all are wanted
  };
  struct OwnDump {
    const plugin::ComponentReader* reader = nullptr;
    std::mutex* mutex = nullptr;  // null: no other thread has the reader
    std::unique_ptr<plugin::ComponentReader> own;
  };

  studies::TokenBatch& fill(const std::vector<int64_t>& tokens, size_t first_layer, size_t end_layer);
  void find_segments(const std::vector<int64_t>& tokens);
  void add_segment(int64_t first, int64_t n);
  void read_labels(const Segment& segment);
  void read_layer(const Segment& segment, size_t layer);
  void read_reals(const Segment& segment, size_t layer, const char* what, int64_t width, std::vector<float>& out);
  template <typename From, typename To>
  static void place(const Segment& segment, const From* from, int64_t from_width, int64_t width, To missing, To* to);

  const RunSource& source_;
  uint32_t needs_;
  std::vector<OwnDump> dumps_;
  std::vector<Segment> segments_;
  BatchBuffer buffer_;
  std::vector<int64_t> tokens_;
  std::vector<plugin::TokenLabel> labels_;
  std::vector<int32_t> ids_;
  std::vector<float> weights_, scores_, logits_;
};

}  // namespace moetap::cli
