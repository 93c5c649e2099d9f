#include "analysis/attention/attention_kernel_arguments.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <optional>

namespace moetap::analysis {
namespace {

constexpr double kLog2OfE = 1.4426950408889634;
// Positions are floats in the kernel.
constexpr int64_t kMaxTokens = int64_t{1} << 24;
// A part is at most this long: see Note [Sums of the attention kernel].
constexpr int64_t kMaxTilesOfPart = 16;

std::optional<AttentionElement> element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return AttentionElement::kFloat;
    case at::kHalf:
      return AttentionElement::kHalf;
    case at::kBFloat16:
      return AttentionElement::kBFloat16;
    case at::kDouble:
      return AttentionElement::kDouble;
    case at::kBool:
      return AttentionElement::kBool;
    default:
      return std::nullopt;
  }
}

bool is_readable(const at::Tensor& tensor) {
  return !tensor.defined() || element_of(tensor).has_value();
}

bool lies_in_pieces(const at::Tensor& tensor) {
  constexpr int64_t kPiece = 16;
  const auto size = static_cast<int64_t>(tensor.element_size());
  if (tensor.stride(3) != 1 || reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kPiece != 0) return false;
  if (tensor.size(3) * size % kPiece != 0) return false;
  for (int64_t dim = 0; dim < 3; ++dim) {
    if (tensor.size(dim) > 1 && tensor.stride(dim) * size % kPiece != 0) return false;
  }
  return true;
}

AttentionTensor four_dimensions(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  AttentionTensor result{tensor.const_data_ptr(), {}, *element_of(tensor), lies_in_pieces(tensor)};
  for (int64_t dim = 0; dim < 4; ++dim) result.strides[dim] = tensor.stride(dim);
  return result;
}

template <typename Value>
AttentionTokenColumn<Value> column_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.const_data_ptr<Value>(), {tensor.stride(0), tensor.stride(1)}};
}

template <typename Value>
Value* address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<Value>() : nullptr;
}

constexpr int64_t parts_of(int64_t number, int64_t size) {
  return (number + size - 1) / size;
}

/// How the two passes over the scores are cut.
struct Cut {
  int64_t warps, row_blocks, key_tiles, softmax_tiles, softmax_parts, value_tiles, value_parts;
};

/// Tiles a part, so that there are enough blocks.
int64_t tiles_of_part(int64_t blocks, int64_t tiles, int64_t enough_blocks) {
  const int64_t parts = std::clamp<int64_t>(parts_of(enough_blocks, std::max<int64_t>(1, blocks)), 1, tiles);
  return parts_of(tiles, parts);
}

Cut cut_of(const AttentionShape& shape, int64_t enough_blocks = kEnoughBlocks) {
  Cut cut{};
  cut.warps = std::clamp<int64_t>(parts_of(shape.num_queries, kRowsOfWarp), 1, kMaxWarpsOfBlock);
  cut.row_blocks = parts_of(shape.num_queries, cut.warps * kRowsOfWarp);
  cut.key_tiles = parts_of(shape.num_keys, kKeysOfTile);
  const int64_t tiles = std::max<int64_t>(1, cut.key_tiles);
  const int64_t blocks = shape.num_sequences * shape.num_heads * cut.row_blocks;
  // More than one part only where there are few rows, so that their memory stays linear.
  cut.softmax_tiles = tiles_of_part(blocks, tiles, enough_blocks);
  cut.softmax_parts = parts_of(tiles, cut.softmax_tiles);
  cut.value_tiles = std::min(tiles_of_part(blocks, tiles, enough_blocks), kMaxTilesOfPart);
  cut.value_parts = parts_of(tiles, cut.value_tiles);
  return cut;
}

/// The pieces of a call's memory, one behind the other.
class ScratchLayout {
 public:
  explicit ScratchLayout(int64_t* begin) : begin_(begin) {}

  template <typename Value>
  void add(Value*& piece, int64_t count) {
    if (begin_ != nullptr) piece = reinterpret_cast<Value*>(begin_ + words_);
    words_ += parts_of(count * static_cast<int64_t>(sizeof(Value)), 16) * 2;  // each begins at 16 bytes
  }
  int64_t words() const { return words_; }

 private:
  int64_t* begin_;
  int64_t words_ = 0;
};

int64_t lay_out(AttentionKernelArguments& arguments, const AttentionShape& shape, const Cut& cut, int64_t* begin) {
  ScratchLayout layout(begin);
  const int64_t lines = shape.num_sequences * shape.num_queries, of_heads = lines * shape.num_heads;
  const int64_t tiles = shape.num_sequences * cut.key_tiles;
  layout.add(arguments.row_words, lines * kNumRowWords);
  layout.add(arguments.received, shape.num_sequences * shape.num_keys);
  layout.add(arguments.partial, cut.softmax_parts * of_heads);
  layout.add(arguments.softmax, of_heads);
  layout.add(arguments.keys, tiles * kKeysOfTile);
  layout.add(arguments.tiles, tiles);
  layout.add(arguments.columns, tiles * kWordsOfColumns);
  layout.add(arguments.state, lines);
  layout.add(arguments.rows, lines);
  layout.add(arguments.num_rows, shape.num_sequences);
  return layout.words();
}

int32_t narrow(int64_t value) {
  TORCH_INTERNAL_ASSERT(value >= 0 && value <= std::numeric_limits<int32_t>::max(), "attention kernel: ", value);
  return static_cast<int32_t>(value);
}

}  // namespace

const char* attention_kernel_refusal(const AttentionCall& call, const AttentionShape& shape) {
  if (shape.num_queries > kMaxTokens || shape.num_keys > kMaxTokens) return "more than 2^24 tokens";
  const Cut cut = cut_of(shape);
  constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
  const int64_t row_blocks = shape.num_sequences * shape.num_heads * cut.row_blocks;
  if (row_blocks * std::max({cut.softmax_parts, cut.value_parts, cut.key_tiles}) > kMaxBlocks)
    return "more blocks than a launch holds";
  if (!is_readable(call.mask) || !is_readable(call.probabilities) || !is_readable(call.scores)) {
    return "a dtype that is not bool, half, bfloat16, float or double";
  }
  if (call.probabilities.defined()) return nullptr;
  if (call.query.scalar_type() != call.key.scalar_type()) return "query and key of different dtypes";
  const auto element = element_of(call.query);
  if (!element || *element == AttentionElement::kDouble) return "query and key are not half, bfloat16 or float";
  if (call.query.size(3) == 0) return "heads of size 0";
  return nullptr;
}

int64_t attention_terms_of_row(const AttentionShape& shape) {
  return cut_of(shape).value_parts;
}

int64_t attention_scratch_words(const AttentionShape& shape) {
  AttentionKernelArguments none;
  return lay_out(none, shape, cut_of(shape), nullptr);
}

AttentionKernelLaunch attention_kernel_launch(const AttentionCall& call, const AttentionTokens& tokens,
                                              const AttentionShape& shape, const AttentionRows& rows,
                                              const at::Tensor& scratch, int64_t enough_blocks) {
  AttentionKernelLaunch launch;
  AttentionKernelArguments& to = launch.arguments;
  to.query = four_dimensions(call.query);
  to.key = four_dimensions(call.key);
  to.probabilities = four_dimensions(call.probabilities);
  to.scores = four_dimensions(call.scores);
  if (call.mask.defined()) {
    to.mask =
        four_dimensions(call.mask.expand({shape.num_sequences, shape.num_heads, shape.num_queries, shape.num_keys}));
    to.mask_is_of_keys =
        (shape.num_heads == 1 || to.mask.strides[1] == 0) && (shape.num_queries == 1 || to.mask.strides[2] == 0);
  }
  to.query_position = column_of<int32_t>(tokens.query_position);
  to.key_position = column_of<int32_t>(tokens.key_position);
  to.query_region = column_of<uint8_t>(tokens.query_region);
  to.key_region = column_of<uint8_t>(tokens.key_region);
  to.sampled = column_of<bool>(tokens.sampled);
  to.num_lines = rows.num_lines();
  to.num_sequences = narrow(shape.num_sequences);
  to.num_heads = narrow(shape.num_heads);
  to.heads_of_key = call.key.defined() ? narrow(shape.num_heads / shape.num_key_heads) : 1;
  to.num_queries = narrow(shape.num_queries);
  to.num_keys = narrow(shape.num_keys);
  to.num_regions = narrow(tokens.num_regions);
  to.scale = static_cast<float>(call.scale * kLog2OfE);
  to.share = 1.0F / static_cast<float>(shape.num_heads);
  to.causal = call.causal;
  to.self = tokens.self;

  const Cut cut = cut_of(shape, enough_blocks);
  to.warps_of_block = narrow(cut.warps);
  to.row_blocks = narrow(cut.row_blocks);
  to.key_tiles = narrow(cut.key_tiles);
  to.token_tiles = narrow(std::max<int64_t>({1, cut.key_tiles, parts_of(shape.num_queries, kKeysOfTile)}));
  to.softmax_tiles = narrow(cut.softmax_tiles);
  to.softmax_parts = narrow(cut.softmax_parts);
  to.value_tiles = narrow(cut.value_tiles);
  to.value_parts = narrow(cut.value_parts);
  if (call.query.defined()) {
    to.depth = narrow(call.query.size(3));
    const int64_t bytes = to.depth * static_cast<int64_t>(call.query.element_size());
    // In steps of 64 bytes, see `multiply`; rows lie an odd number of these apart, so that the lanes of a warp that
    // read together hit all banks of shared memory once.
    to.row_bytes = narrow(std::min<int64_t>(kBytesOfStage, parts_of(bytes, 64) * 64));
    to.row_pitch = to.row_bytes + (to.row_bytes % 128 == 0 ? 64 : 0);
    while ((16 << to.pieces_shift) < to.row_bytes) ++to.pieces_shift;
  }

  to.line = address<uint8_t>(rows.line);
  to.values = address<float>(rows.values);
  to.bins = address<float>(rows.bins);
  to.region = address<uint8_t>(rows.region);
  to.rows_num_keys = address<int32_t>(rows.num_keys);
  to.length = address<int32_t>(rows.length);
  to.weight = address<double>(rows.weight);
  to.head_high = address<int64_t>(rows.head_high);
  to.head_low = address<int64_t>(rows.head_low);
  to.head_max_score = address<int64_t>(rows.head_max_score);
  to.matrix = address<float>(rows.matrix);
  lay_out(to, shape, cut, address<int64_t>(scratch));

  const int64_t blocks = shape.num_sequences * shape.num_heads * cut.row_blocks;
  const AttentionBlockMemory memory{to.row_pitch, to.warps_of_block};
  launch.prepare_blocks = shape.num_sequences * to.token_tiles;
  launch.softmax_blocks = shape.num_keys == 0 ? 0 : blocks * cut.softmax_parts;
  launch.combine_blocks = shape.num_keys == 0 ? 0 : parts_of(to.num_lines * shape.num_heads, kThreadsOfTokens);
  launch.value_blocks = shape.num_keys == 0 ? 0 : blocks * cut.value_parts;
  launch.matrix_blocks = to.matrix == nullptr ? 0 : shape.num_sequences * cut.row_blocks * cut.key_tiles;
  launch.finish_blocks = parts_of(to.num_lines, kThreadsOfTokens / 32);
  launch.softmax_bytes = memory.columns();
  launch.value_bytes = memory.bytes();
  return launch;
}

}  // namespace moetap::analysis
