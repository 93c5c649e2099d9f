#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/studies/array_files.h"
#include "cli/studies/batch_buffer.h"
#include "cli/studies/token_source.h"

namespace moetap::cli {

/// The notebook's arrays as a component "arrays" whose layers are "0", "1", ...; samples stand in their order, with
/// their padding where a study needs kNeedsPadding. A token's weights are its gates.
class ArraySource : public TokenSource {
 public:
  ArraySource(ArrayFiles files, GateOption gate, bool with_padding);

  const studies::ComponentShape& shape() const override { return shape_; }
  uint32_t has() const override;
  int64_t num_tokens(studies::Order order) const override;
  const std::vector<int64_t>& cuts(studies::Order order) const override;
  bool is_token_order(studies::Order order) const override { return order != studies::Order::kForwards; }
  std::unique_ptr<TokenReader> open(uint32_t needs) const override;
  int64_t bytes_per_token(uint32_t needs) const override;
  std::vector<SourceSample> samples() const override;
  std::vector<AttentionPiece> attention() const override;
  std::unique_ptr<AttentionReader> open_attention(uint32_t needs) const override;
  std::vector<std::string> notices() const override { return files_.notices; }

  const ArrayFiles& files() const { return files_; }

 private:
  class Reader;
  class Attention;

  /// Tokens that stand before a sample in the order.
  int64_t begin_of(int64_t sample) const { return cuts_[static_cast<size_t>(sample)]; }
  /// Appends the tokens [first, first + n) of a sample to a layer's buffer.
  void append(int64_t layer, int64_t sample, int64_t first, int64_t n, uint32_t needs, LayerBuffer& buffer) const;

  ArrayFiles files_;
  GateOption gate_;
  bool with_padding_;
  studies::ComponentShape shape_;
  std::vector<int64_t> cuts_;  // [B + 1]
  std::vector<int64_t> none_{0};
};

}  // namespace moetap::cli
